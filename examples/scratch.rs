use colar_engine::device::cpu::{gemv, par};
use half::bf16;
use std::time::Instant;
fn main() {
    let threads: usize = std::env::args().nth(1).map_or(2, |s| s.parse().unwrap());
    let pool = par::Pool::new(threads).unwrap();
    pool.install(|| {
        // ceiling
        let big = vec![1u64; 300_000_000 / 8];
        for _ in 0..6 {
            let t = Instant::now();
            let s = std::sync::atomic::AtomicU64::new(0);
            par::for_blocks(big.len(), 4096, |r| {
                let v = &big[r];
                let x = pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        let mut a = [0u64; 64];
                        for c in v.chunks_exact(64) {
                            for i in 0..64 {
                                a[i] = a[i].wrapping_add(c[i]);
                            }
                        }
                        a.iter().fold(0u64, |p, q| p.wrapping_add(*q))
                    },
                );
                s.fetch_add(x, std::sync::atomic::Ordering::Relaxed);
            });
            println!("read-sum {:.1} GB/s", 0.3 / t.elapsed().as_secs_f64());
        }
        drop(big);
        // empty loop
        let t = Instant::now();
        for _ in 0..100000 {
            par::for_tasks(2 * threads, |_| {});
        }
        println!("empty loop of 2n tasks {:.0} ns", t.elapsed().as_secs_f64() * 1e4);
        // decode-like: 30 layers distinct weights
        let shapes = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)];
        let layers: Vec<Vec<Vec<bf16>>> = (0..30)
            .map(|_| shapes.iter().map(|(n, k)| vec![bf16::from_f32(0.01); n * k]).collect())
            .collect();
        let head = vec![bf16::from_f32(0.01); 49152 * 576];
        for m in [1usize, 2, 4, 8, 16] {
            let x = vec![1f32; m * 1536];
            let mut y = vec![0f32; m * 49152];
            let mut best = f64::MAX;
            let mut parts = [f64::MAX; 8];
            for _ in 0..8 {
                let t0 = Instant::now();
                let mut ts = [0f64; 8];
                for l in &layers {
                    for (i, (w, (n, k))) in l.iter().zip(shapes).enumerate() {
                        let t = Instant::now();
                        gemv::gemv_nt(m, n, k, 1.0, &x[..m * k], w, 0.0, &mut y[..m * n]);
                        ts[i] += t.elapsed().as_secs_f64();
                    }
                }
                let t = Instant::now();
                gemv::gemv_nt(m, 49152, 576, 1.0, &x[..m * 576], &head, 0.0, &mut y);
                ts[7] = t.elapsed().as_secs_f64();
                best = best.min(t0.elapsed().as_secs_f64());
                for i in 0..8 {
                    parts[i] = parts[i].min(ts[i]);
                }
            }
            let bytes = (shapes.iter().map(|(n, k)| n * k).sum::<usize>() * 30 + head.len()) * 2;
            print!(
                "m {m}: {:.2} ms {:.1} GB/s {:.0} GF |",
                best * 1e3,
                bytes as f64 / best / 1e9,
                bytes as f64 * m as f64 / best / 1e9
            );
            for (i, (n, k)) in shapes.iter().chain([&(49152, 576)]).enumerate() {
                let b = n * k * 2 * if i < 7 { 30 } else { 1 };
                print!(" {n}x{k} {:.1}", b as f64 / parts[i] / 1e9);
            }
            println!();
        }
    });
}
