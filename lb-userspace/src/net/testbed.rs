//! Network namespaces without names for tests: nothing is left behind when the test ends.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

/// A network namespace with `lo` up; it and its interfaces vanish when dropped.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Self {
        require_root();
        let file = std::thread::spawn(|| {
            // SAFETY: unshare(2) with this flag touches only this thread's network namespace.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = Self(file.join().unwrap());
        namespace.ip("link set lo up");
        namespace
    }

    /// As an argument of `ip link … netns`.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `ip ARGUMENTS` in it.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) {
        let output = self.inside(|| {
            Command::new("ip").args(arguments.split_whitespace()).output().expect("ip (iproute2)")
        });
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {error}");
    }

    /// Runs a future in it, on a runtime and thread of its own.
    pub(crate) fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.inside(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(future)
        })
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: the fd is open as long as `self`; only this thread changes namespace.
                let result = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Fails, rather than skips, without the rights to make namespaces.
pub(crate) fn require_root() {
    // SAFETY: geteuid(2) has no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    assert!(root, "this test makes network namespaces and needs root: run it with sudo");
}
