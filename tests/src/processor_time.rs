//! Processor time of the lab's processes.
//!
//! What the kernel does for packets is done in the name of the process that sent them, as the
//! lab's cables hand packets over on the core of the sender. So these sums have it, and nothing of
//! what else runs on the machine.

use std::{fs, time::Duration};

use crate::{lab::Lab, namespace::Namespace};

impl Lab {
    /// Of all that runs in its namespaces now.
    pub fn processor_time(&self) -> Duration {
        let backends = self.backends().iter().map(|backend| &backend.namespace);
        let others = [self.switch(), self.client(), self.balancer()];
        backends.chain(others).chain(self.routers()).map(Namespace::processor_time).sum()
    }
}

impl Namespace {
    /// Of all that runs in it now.
    pub fn processor_time(&self) -> Duration {
        self.pids().into_iter().map(of_process).sum()
    }
}

/// Of the processes that this one started, and that have ended.
pub fn of_ended_children() -> Duration {
    // SAFETY: plain numbers, of which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours and the kernel's.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn of_process(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // Nanoseconds run, nanoseconds waited, slices; gone if the thread is.
    let run = |text: String| text.split(' ').next().and_then(|number| number.parse().ok());
    let time = |path| fs::read_to_string(path).ok().and_then(run).unwrap_or(0);
    tasks.map(|task| Duration::from_nanos(time(task.path().join("schedstat")))).sum()
}
