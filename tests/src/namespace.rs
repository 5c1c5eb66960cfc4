//! A named network namespace: run programs, or this process's own code, inside it.
//!
//! Programs are started with `setns`, not `ip netns exec`: that mounts a new /sys and so hides bpffs.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt, unix::process::CommandExt},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::process::{kill, run, wait_until};

const DIRECTORY: &str = "/run/netns";

/// A handle; the lab that made the namespace removes it.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    pub(crate) fn create(name: &str) -> Result<Self> {
        // The first `ip netns add` of a machine sets up /run/netns; two at once would race.
        let lock = File::create("/run/holdfast-lab.lock").context("the lab needs root")?;
        lock.lock()?;
        run(Command::new("ip").args(["netns", "add", name]))?;
        Self::open(name)
    }

    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(name);
        let file = File::open(&path).with_context(|| format!("no namespace {name}"))?;
        Ok(Self { name: name.to_owned(), file: Arc::new(file) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in this namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let file = Arc::clone(&self.file);
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only `setns` is called, which is async-signal-safe; the closure owns the
        // file whose descriptor it uses.
        unsafe { command.pre_exec(move || set_namespace(&file)) };
        command
    }

    /// Runs `inside` on a thread of this namespace; sockets opened there keep belonging to it.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| self.join_thread().map(|()| inside()));
            thread.join().unwrap_or_else(|payload| resume_unwind(payload))
        })
    }

    /// Moves the calling thread into this namespace for the rest of its life.
    pub fn join_thread(&self) -> Result<()> {
        set_namespace(&self.file).with_context(|| format!("cannot enter namespace {}", self.name))
    }

    /// Writes `/proc/sys/net/…` of this namespace.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in values {
                let path = Path::new("/proc/sys").join(key);
                fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))?;
            }
            Ok(())
        })?
    }

    /// Processes whose main thread is in this namespace, except this one.
    pub(crate) fn pids(&self) -> Vec<u32> {
        all_pids().filter(|pid| *pid != std::process::id() && self.has(*pid)).collect()
    }

    /// Whether a process, its main thread that is, is in this namespace.
    pub(crate) fn has(&self, pid: u32) -> bool {
        let id = |file: fs::Metadata| (file.dev(), file.ino());
        let of = fs::metadata(format!("/proc/{pid}/ns/net")).map(id);
        of.is_ok_and(|of| self.file.metadata().map(id).is_ok_and(|own| own == of))
    }
}

/// Names of all namespaces with this prefix.
pub(crate) fn names(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Ends what runs in the namespace and removes it, with its links.
pub(crate) fn remove(name: &str) -> Result<()> {
    if let Ok(namespace) = Namespace::open(name) {
        for pid in namespace.pids() {
            kill(pid, libc::SIGKILL);
        }
        wait_until(Duration::from_secs(2), || namespace.pids().is_empty());
    }
    run(Command::new("ip").args(["netns", "del", name]))
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(PathBuf::from("/proc")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn set_namespace(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; setns touches no memory of ours.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
