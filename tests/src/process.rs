//! Programs of the lab: run one to its end, or keep one and end it in time.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    check(command, output.status, &output.stderr)
}

/// As `run`, with a text on its input.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    check(command, output.status, &output.stderr).with_context(|| format!("input was:\n{input}"))
}

fn check(command: &Command, status: ExitStatus, stderr: &[u8]) -> Result<()> {
    if !status.success() {
        bail!("{command:?} failed ({status}): {}", String::from_utf8_lossy(stderr).trim());
    }
    Ok(())
}

/// Sends a signal; a process that is gone already is no error.
pub(crate) fn kill(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // SAFETY: kill has no memory effects; the pid is a single process.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Sends a signal to a whole process group.
pub(crate) fn kill_group(leader: u32, signal: i32) {
    if let Ok(leader) = i32::try_from(leader)
        && leader > 1
    {
        // SAFETY: as for `kill`; a group of ours, named by the leader that we started.
        unsafe { libc::kill(-leader, signal) };
    }
}

/// The leader of the group a process is in, while it lives.
pub(crate) fn process_group(pid: u32) -> Option<u32> {
    // SAFETY: getpgid has no memory effects.
    let group = unsafe { libc::getpgid(i32::try_from(pid).ok()?) };
    u32::try_from(group).ok()
}

/// Polls until `done`, for at most `limit`; whether it is.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// A running program whose output goes to a file; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with both outputs in `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where it prints to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    /// SIGTERM, and how it ended; an error if it still runs after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM);
        let mut status = None;
        wait_until(limit, || {
            status = self.exit_status();
            status.is_some()
        });
        status.with_context(|| format!("still running {limit:?} after SIGTERM:\n{}", self.log()))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
