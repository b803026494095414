//! A LoRA adapter merged into the weights computes the same as one kept beside them, on every device.

use std::path::Path;

use colar_engine::device::Dtype;
use colar_engine::device::cpu::CpuDevice;
use colar_engine::device::prelude::*;
use colar_engine::files::safetensors::{TensorSpec, write_safetensors};
use colar_engine::files::weights::Weights;
use colar_engine::infer::Loaded;
use colar_engine::model::adapter::{AdapterConfig, LoraTarget};
use colar_engine::model::layout::Layout;
use colar_engine::model::lora::{LoraMode, merge};
use half::{bf16, f16};

use crate::common::host::Host;
use crate::common::{golden, relative};

/// Agreement that float32 arithmetic reaches (spec section 9).
const TOLERANCE: f64 = 1e-5;

/// The final hidden states of the golden sequences, by case; none is of the model without its adapter.
fn hidden_states<D: Device>(name: &str, loaded: &Loaded<D>) -> Vec<(String, Vec<f32>)> {
    let (device, model) = (&loaded.device, &loaded.opened.model);
    let vectors = Weights::open_file(&golden(name).join("sft.safetensors")).unwrap();
    let cases = vectors.names().filter_map(|n| n.strip_suffix(".inputs_embeds"));
    let states = cases.map(|case| {
        let x = vectors.tensor(&format!("{case}.inputs_embeds")).unwrap();
        let rows = x.numel() / model.transformer.config.hidden_size;
        let x = device.upload(rows, x.numel() / rows, &x.to_f32_vec()).unwrap();
        let layout = Layout::packed(device, &[rows]).unwrap();
        let run = || model.transformer.forward(device, &model.params, x, &layout, None).unwrap().0;
        (case.to_owned(), device.read(&device.scope(run)).unwrap())
    });
    states.collect()
}

fn check_model<D: Device>(device: &D, name: &str) {
    let dir = golden(name);
    let load =
        |lora| Loaded::with_lora(device.clone(), &dir, Some(&dir.join("adapter")), Some(lora)).unwrap();
    let (merged, apart) = (load(LoraMode::Merge), load(LoraMode::Apart));
    let adapted =
        |loaded: &Loaded<D>| loaded.opened.model.params.iter().any(|(_, p)| p.name.contains("lora"));
    assert!(adapted(&apart) && !adapted(&merged));
    let vectors = Weights::open_file(&dir.join("sft.safetensors")).unwrap();
    let (merged, apart) = (hidden_states(name, &merged), hidden_states(name, &apart));
    assert!(!merged.is_empty());
    for ((case, merged), (_, apart)) in merged.iter().zip(&apart) {
        let want = vectors.tensor(&format!("{case}.hidden")).unwrap().to_f32_vec();
        for (what, error) in [
            ("merged", relative(merged, &want)),
            ("apart", relative(apart, &want)),
            ("merged, beside apart", relative(merged, apart)),
        ] {
            assert!(error < TOLERANCE, "{name}, {case}, {what}: relative error {error:.1e}");
        }
    }
}

/// Writes matrices in a dtype; returns what they were rounded to.
fn save(path: &Path, dtype: Dtype, tensors: &[(&str, &Host)]) -> Vec<Host> {
    let spec =
        |(name, x): &(&str, &Host)| TensorSpec { name: (*name).into(), shape: vec![x.rows, x.cols], dtype };
    let specs: Vec<_> = tensors.iter().map(spec).collect();
    write_safetensors(path, &specs, &[], |i, out| {
        tensors[i].1.values.iter().try_for_each(|&x| match dtype {
            Dtype::F32 => out.write_all(&x.to_le_bytes()),
            Dtype::Bf16 => out.write_all(&bf16::from_f32(x).to_le_bytes()),
            Dtype::F16 => out.write_all(&f16::from_f32(x).to_le_bytes()),
        })
    })
    .unwrap();
    let file = Weights::open_file(path).unwrap();
    tensors
        .iter()
        .map(|(name, x)| Host::new(x.rows, x.cols, file.tensor(name).unwrap().to_f32_vec()))
        .collect()
}

/// Every element of W + scale·B·A against float64 sums, and the frozen form against one rounding of it.
fn check_matrix<D: Device>(device: &D, rows: usize, cols: usize, r: usize, dtype: Dtype) {
    const NAME: &str = "model.layers.3.mlp.up_proj";
    let dir = tempfile::tempdir().unwrap();
    let seed = (rows * 31 + cols) as u64;
    let w = Host::normal(rows, cols, 0.1, seed);
    let (a, b) = (Host::normal(r, cols, 0.3, seed + 1), Host::normal(rows, r, 0.3, seed + 2));
    let weight = format!("{NAME}.weight");
    let [a_name, b_name] = ["A", "B"].map(|x| format!("base_model.model.{NAME}.lora_{x}.weight"));
    let base = dir.path().join("model.safetensors");
    let w = save(&base, dtype, &[(&weight, &w)]).remove(0);
    let adapter = dir.path().join("adapter.safetensors");
    let ab = save(&adapter, Dtype::F32, &[(&a_name, &a), (&b_name, &b)]);
    let (a, b) = (&ab[0], &ab[1]);
    let config = AdapterConfig {
        r,
        lora_alpha: 24.0,
        use_rslora: r == 4,
        target_modules: vec![LoraTarget::UpProj],
        ..AdapterConfig::default()
    };
    let (base, file) = (Weights::open_file(&base).unwrap(), Weights::open_file(&adapter).unwrap());
    let merged = merge(device, &weight, base.tensor(&weight).unwrap(), &config, &file).unwrap();
    assert_eq!((merged.rows(), merged.cols(), merged.dtype()), (rows, cols, Dtype::F32));
    let got = device.read(&merged).unwrap();
    for (i, &got) in got.iter().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let terms = (0..r).map(|k| f64::from(config.scale()) * b.at(row, k) * a.at(k, col));
        let want = w.at(row, col) + terms.clone().sum::<f64>();
        let scale = w.at(row, col).abs() + terms.map(f64::abs).sum::<f64>();
        assert!((f64::from(got) - want).abs() <= 1e-6 * scale, "{row}, {col}: {got} instead of {want}");
    }
    let frozen = device.freeze(merged).unwrap();
    let rounded = |x: &f32| match device.compute_dtype() {
        Dtype::Bf16 => bf16::from_f32(*x).to_f32(),
        _ => *x,
    };
    assert_eq!(device.read(&frozen).unwrap(), got.iter().map(rounded).collect::<Vec<_>>());
    // A weight without adapter is as it was.
    let other = "model.layers.3.mlp.down_proj.weight";
    let same = merge(device, other, base.tensor(&weight).unwrap(), &config, &file).unwrap();
    assert_eq!(device.read(&same).unwrap(), w.values);
}

fn check_matrices<D: Device>(device: &D) {
    for (rows, cols, r) in [(1, 7, 1), (5, 1, 4), (16, 33, 1), (17, 40, 20), (67, 35, 4)] {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            device.scope(|| check_matrix(device, rows, cols, r, dtype));
        }
    }
}

#[test]
fn hidden_states_on_the_cpu() {
    let device = CpuDevice::new(2).unwrap();
    check_model(&device, "llama-tiny");
    check_model(&device, "qwen2-tiny");
}

#[test]
fn matrices_on_the_cpu() {
    check_matrices(&CpuDevice::new(2).unwrap());
}

#[cfg(cuda_host)]
mod by_the_kernels {
    use colar_engine::device::cuda::host::HostDriver;
    use colar_engine::device::cuda::{CudaDevice, CudaHostDevice};

    use super::*;

    fn device(dtype: Dtype) -> CudaHostDevice {
        CudaDevice::new(HostDriver::new(2, 3).unwrap(), dtype)
    }

    #[test]
    fn hidden_states() {
        check_model(&device(Dtype::F32), "llama-tiny");
        check_model(&device(Dtype::F32), "qwen2-tiny");
    }

    #[test]
    fn matrices() {
        check_matrices(&device(Dtype::F32));
        check_matrices(&device(Dtype::Bf16));
    }
}
