//! A program as a probe: exit status 0 passes. At the timeout it is killed, with all it started.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::excerpt::first_line;
use super::{Failure, FailureKind, Limit, Target};
use crate::config::model::Exec;

/// Bytes of its output that are looked at; the rest is read and forgotten.
const MAX_OUTPUT: usize = 4096;
/// All that a program finds in its environment besides what names the backend.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) async fn exec(target: &Target, exec: &Exec, limit: Limit) -> Result<(), Failure> {
    let program = &exec.program;
    let silence = || format!("{program} did not end");
    let (group, output) = limit.wait(start(target, exec), silence).await?.map_err(|error| {
        Failure::new(FailureKind::Local, format!("{program} cannot be started: {error}"))
    })?;
    let (status, said) = limit.wait(watch(group, output), silence).await?;
    let status = status.map_err(|error| {
        Failure::new(FailureKind::Local, format!("{program} cannot be waited for: {error}"))
    })?;
    if status.success() {
        return Ok(());
    }
    let said = first_line(&said).map_or(String::new(), |line| format!(": {line}"));
    Err(Failure::new(FailureKind::Exec, format!("{program} {}{said}", how(status))))
}

/// Starts it on another thread: that may take as long as the disk or the loader takes.
async fn start(target: &Target, exec: &Exec) -> io::Result<(Group, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(&exec.program);
    command
        .args(&exec.arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOLDFAST_SERVICE", &target.service)
        .env("HOLDFAST_BACKEND", &target.backend)
        .env("HOLDFAST_ADDRESS", target.address.ip().to_string())
        .env("HOLDFAST_PORT", target.address.port().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let started = tokio::task::spawn_blocking(move || command.spawn().map(Group));
    let group = started.await.map_err(io::Error::other)??;
    Ok((group, reader.into()))
}

/// Its end, and the beginning of what it said.
async fn watch(mut group: Group, output: OwnedFd) -> (io::Result<ExitStatus>, Vec<u8>) {
    let mut said = Vec::new();
    let Ok(mut output) = pipe::Receiver::from_owned_fd(output) else {
        return (group.0.wait().await, said);
    };
    let mut buffer = [0; MAX_OUTPUT];
    loop {
        tokio::select! {
            read = output.read(&mut buffer) => {
                let length = read.unwrap_or_default();
                let room = MAX_OUTPUT.saturating_sub(said.len()).min(length);
                said.extend_from_slice(buffer.get(..room).unwrap_or_default());
                if length == 0 {
                    return (group.0.wait().await, said);
                }
            }
            // Others that it started may hold the output open.
            status = group.0.wait() => {
                if let Ok(output) = output.into_nonblocking_fd() {
                    let left = File::from(output).take((MAX_OUTPUT - said.len()) as u64);
                    // Its error is that no more is there now.
                    let _ = { left }.read_to_end(&mut said);
                }
                return (status, said);
            }
        }
    }
}

/// A process and all in its group; killed when dropped before its end.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // No id: it has been waited for, and its number may be another's by now.
        let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) else { return };
        // SAFETY: killpg(2) has no memory preconditions; the leader is not reaped yet, so the
        // group is still ours.
        unsafe { libc::killpg(id, libc::SIGKILL) };
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".into(),
    }
}
