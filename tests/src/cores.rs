//! Which processor cores a thread may run on.

use std::{io, mem::size_of};

use anyhow::{Context, Result};

/// Cores that the calling thread may use.
pub fn all_cores() -> Result<Vec<usize>> {
    let mut set = no_cores();
    // SAFETY: the set is as large as is said, and ours.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if failed != 0 {
        return Err(io::Error::last_os_error()).context("cannot ask for the cores");
    }
    let may = |core: &usize| {
        // SAFETY: the number is below the size of the set.
        unsafe { libc::CPU_ISSET(*core, &set) }
    };
    Ok((0..libc::CPU_SETSIZE as usize).filter(may).collect())
}

/// Keeps the calling thread, and the processes and threads it will start, on these cores.
pub fn pin(cores: &[usize]) -> Result<()> {
    let mut set = no_cores();
    for core in cores {
        // SAFETY: a core of this machine, so its number is below the size of the set.
        unsafe { libc::CPU_SET(*core, &mut set) };
    }
    // SAFETY: the set is as large as is said.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error())
            .with_context(|| format!("cannot stay on cores {cores:?}")),
    }
}

fn no_cores() -> libc::cpu_set_t {
    // SAFETY: plain bits, of which all zeroes is the empty set.
    unsafe { std::mem::zeroed() }
}
