//! A BPF file system of this process's own: mounted nowhere, so that nobody sees it, and gone with
//! the process, however that ends. Maps have names there, by which a second load finds them.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

/// The file system, held by its mount.
#[derive(Debug)]
pub(super) struct PrivateFs(OwnedFd);

impl PrivateFs {
    /// Fails without the right to mount (`CAP_SYS_ADMIN`), and where /proc is not mounted.
    pub(super) fn new() -> io::Result<Self> {
        let context = {
            // SAFETY: takes a string, which outlives the call.
            let fd =
                unsafe { libc::syscall(libc::SYS_fsopen, c"bpf".as_ptr(), libc::FSOPEN_CLOEXEC) };
            opened(fd)?
        };
        let none = std::ptr::null::<libc::c_char>();
        // SAFETY: this command takes neither key nor value.
        let created = unsafe {
            let create = libc::FSCONFIG_CMD_CREATE;
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), create, none, none, 0)
        };
        if created < 0 {
            return Err(io::Error::last_os_error());
        }
        let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        // SAFETY: takes numbers only.
        let mount = opened(unsafe {
            let close = libc::FSMOUNT_CLOEXEC;
            libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), close, attributes)
        })?;
        let private = Self(mount);
        std::fs::metadata(private.path(""))?;
        Ok(private)
    }

    /// The path of a name in it, good in this process only.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()).into()
    }
}

fn opened(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
