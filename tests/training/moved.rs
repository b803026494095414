//! A run whose directory goes does not go on, nor does it write into the one of another.

use colar_engine::device::cpu::CpuDevice;
use colar_engine::files::lock::DirLock;
use colar_engine::train::{Progress, Trainer};

use crate::common::runs::{flags, materials};

#[test]
fn a_run_whose_directory_goes_stops_and_says_so() {
    let tmp = tempfile::tempdir().unwrap();
    let text = materials(tmp.path()).replace("save-every = 1000", "save-every = 2")
        + "max-steps = 9\nmonitor = \"loss\"\n";
    for (name, again) in [("removed", false), ("replaced", true)] {
        let out = tmp.path().join(name);
        let options = flags(tmp.path(), name, &text).resolve().unwrap();
        let mut trainer = Trainer::new(CpuDevice::new(1).unwrap(), options, false).unwrap();
        let mut steps = 0;
        let mut second = None;
        let ended = trainer.run(&mut |progress| {
            if let Progress::Step(s) = progress {
                steps = s.step;
                if s.step == 3 {
                    assert!(out.join("last").exists());
                    std::fs::remove_dir_all(&out).unwrap();
                    second = again.then(|| DirLock::take(&out).unwrap());
                }
            }
        });
        let error = ended.unwrap_err();
        assert_eq!((error.exit_code(), steps), (1, 4), "it ends at the next save");
        let says = format!("{name}: the directory of this run was removed, moved or replaced meanwhile");
        assert!(error.to_string().contains(&says), "{error}");
        let left: Vec<_> =
            std::fs::read_dir(&out).into_iter().flatten().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, if again { vec![".lock"] } else { Vec::new() });
    }
}
