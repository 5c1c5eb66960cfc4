//! Grace periods: after one, no packet still uses what it read before.

use std::io;
use std::time::Duration;

/// Waits until every run of the program that began before the call has ended.
///
/// XDP programs run as RCU readers; `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu()`
/// (kernel/sched/membarrier.c). Kernels with `nohz_full` processors refuse it; there a wait far
/// longer than a program can run does. Blocks for milliseconds.
pub fn wait() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        let reason = io::Error::last_os_error();
        tracing::debug!(%reason, "no global memory barrier here; waiting instead");
        std::thread::sleep(Duration::from_millis(200));
    }
}
