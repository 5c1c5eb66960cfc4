//! The `bpf` system call, for what aya does not offer.

use std::io;

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// An attribute with every field zero, as the kernel demands of those a command does not use.
pub(super) fn zeroed() -> bpf_attr {
    // SAFETY: a C union for which all bits zero is a value.
    unsafe { std::mem::zeroed() }
}

/// What the kernel answers: a file descriptor, of commands that make one.
///
/// # Safety
///
/// The attribute's pointers are good for what the command does with them.
pub(super) unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the caller's; the size is the union's own.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
