//! The choice of the driver, as a user meets it: the built binary where io_uring is refused by a real seccomp filter, as a
//! container's profile refuses it.

#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unsafe_code)] // a filter has to be there before the binary runs

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_ringlog");

/// `ringlog serve` with a setting, and what it says.
struct Broker {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Broker {
    fn command(settings: &[&str]) -> (Command, tempfile::TempDir) {
        // Not /tmp: it may be a file system in memory.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["serve", "--set", &format!("log.dirs={}", dir.path().display())]);
        command.args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "shards=2"]);
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        (command, dir)
    }

    fn start(mut command: Command, dir: tempfile::TempDir) -> Broker {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = line.trim_end().strip_prefix("ready ").map(str::to_owned);
        let Some(address) = ready else {
            let mut log = String::new();
            child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            panic!("not ready: {log}");
        };
        Broker { child, address: address.split(' ').next().unwrap().to_owned(), _dir: dir }
    }

    /// Records go in and come out again.
    fn works(&self) {
        let run = |args: &[&str]| {
            let output =
                Command::new(BINARY).args(args).env("RINGLOG_BOOTSTRAP", &self.address).output().unwrap();
            assert!(output.status.success(), "{args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["topic", "create", "orders", "--partitions", "4"]);
        let args = ["load", "--bootstrap", &self.address, "--topic", "orders", "--max", "--records", "20000"];
        run(&args);
    }

    /// Ends it as a service manager does; what it logged.
    fn stop(mut self) -> String {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(kill.success());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(self.child.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Of a test that has failed; else it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes `io_uring_setup` fail in the command's process, as container profiles do.
fn without_io_uring(command: &mut Command) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The system call's number is the first word of what a filter sees.
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the program and its description live through the calls, which copy them.
        let failed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
        };
        if failed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated.
    unsafe { command.pre_exec(install) };
}

fn failed(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn epoll_takes_over_where_a_filter_refuses_io_uring() {
    let (mut command, dir) = Broker::command(&[]);
    without_io_uring(&mut command);
    let broker = Broker::start(command, dir);
    broker.works();
    let log = broker.stop();
    assert!(log.contains("driver=epoll") || log.contains("driver=\\u{1b}"), "{log}");
    assert!(log.contains("stands in for io_uring") && log.contains("seccomp"), "{log}");
}

#[test]
fn the_load_generator_runs_without_io_uring() {
    let (command, dir) = Broker::command(&["ringlog.io.driver=poll"]);
    let broker = Broker::start(command, dir);
    let mut load = Command::new(BINARY);
    load.args([
        "load",
        "--bootstrap",
        &broker.address,
        "--rate",
        "2000",
        "--duration",
        "1s",
        "--warmup",
        "0s",
        "--max-lag",
        "1h",
    ]);
    without_io_uring(&mut load);
    let output = load.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!broker.stop().contains("stands in"), "what was asked for is no surprise");
}

#[test]
fn uring_is_the_first_choice() {
    let (command, dir) = Broker::command(&[]);
    let broker = Broker::start(command, dir);
    broker.works();
    assert!(!broker.stop().contains("epoll"));
}

#[test]
fn uring_forced_is_refused_with_the_reason() {
    let (mut command, _dir) = Broker::command(&["ringlog.io.driver=uring"]);
    without_io_uring(&mut command);
    let (code, text) = failed(&command.output().unwrap());
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("seccomp") && text.contains("fix: "), "{text}");
    let (mut command, _dir) = Broker::command(&["ringlog.io.driver=glommio"]);
    let (code, text) = failed(&command.output().unwrap());
    assert!(code == 2 && text.contains("ringlog.io.driver"), "{text}");
}
