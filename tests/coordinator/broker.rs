//! A broker on a directory that outlives it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_ringlog");

pub struct Broker {
    child: Child,
    /// Held open: the broker may write on.
    _out: BufReader<ChildStdout>,
    pub address: String,
}

impl Broker {
    pub fn start(data: &Path, settings: &[&str]) -> Broker {
        let mut child = Command::new(BINARY)
            .args(["serve", "--log", "error"])
            .args(["--set", &format!("log.dirs={}", data.display())])
            .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "shards=2"])
            .args(["--set", "ringlog.memory.bytes=67108864", "--set", "ringlog.http.listener="])
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("ready ").expect("the broker is ready");
        let address = address.split(' ').next().unwrap().to_owned();
        Broker { child, _out: out, address }
    }

    /// Runs a subcommand against it; what it prints.
    pub fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(BINARY);
        let output = command.args(args).env("RINGLOG_BOOTSTRAP", &self.address).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// SIGKILL; it is gone when this returns.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
