//! A training run whose save is killed at any of its file operations, or has any of them fail, loses nothing and
//! leaves nothing: it goes on to the bytes of a run that was left in peace.
//!
//! The engine runs as a traced child (ptrace), which stops before every system call.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::cli::engine;
use crate::common::golden;

/// What happens at a file operation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// The process is killed before it.
    Kill,
    /// It fails for want of space.
    Fail,
}

/// How a traced process ended.
#[derive(Debug, PartialEq)]
enum End {
    Killed,
    Exited(i32),
}

/// What became of a traced process, and the system call that met its fate.
struct Traced {
    end: End,
    call: Option<i64>,
}

/// Whether a system call is one by which files come to be, change or go.
fn changes_files(r: &libc::user_regs_struct) -> bool {
    let call = r.orig_rax as i64;
    match call {
        libc::SYS_openat => r.rdx as i32 & libc::O_CREAT != 0,
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev => r.rdi > 2,
        _ => [
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_ftruncate,
            libc::SYS_rename,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_mkdir,
            libc::SYS_mkdirat,
            libc::SYS_unlink,
            libc::SYS_unlinkat,
            libc::SYS_rmdir,
            libc::SYS_fchmod,
            libc::SYS_flock,
            libc::SYS_copy_file_range,
            libc::SYS_sendfile,
        ]
        .contains(&call),
    }
}

/// Runs a command to its end, or to its fate at file operation `at`, counted from 0.
fn traced(command: &mut Command, at: usize, fate: Fate) -> Traced {
    // SAFETY: `ptrace` is a system call that allocates nothing, as what runs between fork and exec must be.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    #[expect(clippy::zombie_processes, reason = "it is waited for as a traced process")]
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id() as libc::pid_t;
    let wait = || {
        let mut status = 0;
        // SAFETY: the child is ours and `status` is a number to write to.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, libc::__WALL) }, pid);
        status
    };
    let ask = |request: libc::c_uint, data: usize| {
        // SAFETY: the child is stopped, and the requests made here take numbers or the registers' place as data.
        assert_eq!(
            unsafe { libc::ptrace(request, pid, 0usize, data) },
            0,
            "{}",
            std::io::Error::last_os_error()
        );
    };
    let mut registers: libc::user_regs_struct = no_registers();
    let place = &raw mut registers as usize;
    wait();
    ask(libc::PTRACE_SETOPTIONS, (libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL) as usize);
    let (mut count, mut entering, mut failing, mut call, mut signal) = (0, true, false, None, 0);
    loop {
        ask(libc::PTRACE_SYSCALL, signal);
        let status = wait();
        if libc::WIFEXITED(status) {
            return Traced { end: End::Exited(libc::WEXITSTATUS(status)), call };
        }
        if libc::WIFSIGNALED(status) {
            return Traced { end: End::Killed, call };
        }
        let stop = libc::WSTOPSIG(status);
        signal = 0;
        if stop != libc::SIGTRAP | 0x80 {
            // A signal of its own; the stop after exec is none.
            signal = if stop == libc::SIGTRAP { 0 } else { stop as usize };
            continue;
        }
        if entering {
            ask(libc::PTRACE_GETREGS, place);
            if changes_files(&registers) {
                if count == at {
                    call = Some(registers.orig_rax as i64);
                    match fate {
                        Fate::Kill => {
                            // SAFETY: a signal to our own child.
                            assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
                            wait();
                            return Traced { end: End::Killed, call };
                        }
                        Fate::Fail => {
                            // No system call has this number.
                            registers.orig_rax = u64::MAX;
                            ask(libc::PTRACE_SETREGS, place);
                            failing = true;
                        }
                    }
                }
                count += 1;
            }
        } else if std::mem::take(&mut failing) {
            ask(libc::PTRACE_GETREGS, place);
            registers.rax = -i64::from(libc::ENOSPC) as u64;
            ask(libc::PTRACE_SETREGS, place);
        }
        entering = !entering;
    }
}

/// Registers to be read into.
fn no_registers() -> libc::user_regs_struct {
    // SAFETY: a structure of integers, for which all bits zero are values.
    unsafe { std::mem::zeroed() }
}

/// Every file under `dir`, but for logs, which a run that goes on writes anew or later.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                open.push(path);
            } else if !name.starts_with("events.") && name != "metrics.jsonl" {
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &to) } else { std::fs::copy(&path, to).map(|_| ()).unwrap() }
    }
}

/// Names that only a save in progress has.
fn left(all: &BTreeMap<String, Vec<u8>>) -> Vec<&String> {
    all.keys().filter(|name| name.contains(".colar-")).collect()
}

#[test]
fn a_save_may_be_killed_or_fail_anywhere() {
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("data.jsonl");
    std::fs::write(&data, r#"{"question":"1+1?","steps":["1+1=2"],"answer":"2"}"#).unwrap();
    let at = |name: &str| tmp.path().join(name);
    // A step a save, a validation and a new best checkpoint, for which the one before goes.
    let command = |out: &str, steps: &str| {
        let mut c = engine();
        c.arg("train").arg("--model").arg(golden("llama-tiny")).arg("--out").arg(at(out));
        c.arg("--data").arg(&data).arg("--val").arg(&data);
        c.args([
            "--max-steps",
            steps,
            "--save-every",
            "1",
            "--val-every",
            "1",
            "--monitor",
            "loss",
            "--resume",
        ]);
        c.args([
            "--save-top-k",
            "1",
            "--lora-r",
            "2",
            "--latent-head-size",
            "8",
            "--lr",
            "1e-3",
            "--threads",
            "1",
        ]);
        c
    };
    assert!(command("base", "1").output().unwrap().status.success());
    copy(&at("base"), &at("whole"));
    assert!(command("whole", "2").output().unwrap().status.success());
    let (base, whole) = (files(&at("base")), files(&at("whole")));
    let state = "last/optimizer.safetensors";
    assert!(base[state] != whole[state] && left(&whole).is_empty());
    let mut kept = 0;
    for fate in [Fate::Kill, Fate::Fail] {
        for n in 0.. {
            let out = format!("{fate:?}{n}");
            copy(&at("base"), &at(&out));
            let Traced { end, call } = traced(&mut command(&out, "2"), n, fate);
            let Some(call) = call else {
                // There is no such operation any more.
                assert_eq!(end, End::Exited(0));
                assert!(n > 60, "{n} operations are too few for these saves");
                break;
            };
            let after = files(&at(&out));
            if fate == Fate::Fail {
                assert!(matches!(end, End::Exited(0 | 1)), "operation {n} ({call}): {end:?}");
                // What cannot be removed stays until the directory is opened again.
                let removes = [libc::SYS_unlink, libc::SYS_unlinkat, libc::SYS_rmdir].contains(&call);
                assert!(removes || left(&after).is_empty(), "operation {n} ({call}): {:?}", left(&after));
            }
            let again = command(&out, "2").output().unwrap();
            let said = String::from_utf8(again.stderr).unwrap();
            assert!(again.status.success(), "operation {n} ({call}): {said}");
            assert!(said.contains("resumed after step "), "operation {n} ({call}) lost the state: {said}");
            kept += usize::from(said.contains("resumed after step 1"));
            let after = files(&at(&out));
            assert!(left(&after).is_empty(), "operation {n} ({call}): {:?}", left(&after));
            let mut mine = after;
            // The paths of the directories differ, and the times at which runs began.
            let mut want = whole.clone();
            for file in ["config.toml", "run.json"] {
                mine.remove(file);
                want.remove(file);
            }
            assert!(mine == want, "operation {n} ({call}): {:?}", mine.keys().collect::<Vec<_>>());
            std::fs::remove_dir_all(at(&out)).unwrap();
        }
    }
    assert!(kept > 60, "most operations come before the new state is in place");
}
