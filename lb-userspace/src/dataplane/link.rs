//! A program on an interface, as a BPF link: the kernel takes it off when the link is closed,
//! however the process ends, and nobody else can replace it.
//!
//! Not aya's, which gives a link up when its program cannot be replaced: the interface would be
//! without a program.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{
    XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type::BPF_XDP, bpf_cmd,
};

use super::attach::Mode;
use super::bpf::{bpf, zeroed};

/// Detaches when dropped.
#[derive(Debug)]
pub(super) struct XdpLink(OwnedFd);

impl XdpLink {
    pub(super) fn new(program: BorrowedFd<'_>, index: u32, mode: Mode) -> io::Result<Self> {
        let mut attr = zeroed();
        attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        attr.link_create.__bindgen_anon_2.target_ifindex = index;
        attr.link_create.attach_type = BPF_XDP as u32;
        attr.link_create.flags = match mode {
            Mode::Native => XDP_FLAGS_DRV_MODE,
            Mode::Generic => XDP_FLAGS_SKB_MODE,
        };
        // SAFETY: the attribute has no pointers; the kernel has just opened what it answers.
        unsafe {
            let link = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
            Ok(Self(OwnedFd::from_raw_fd(link)))
        }
    }

    /// Has another program run from the next packet on; where that fails, the former one stays.
    pub(super) fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = zeroed();
        attr.link_update.link_fd = self.0.as_raw_fd() as u32;
        attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
        // SAFETY: the attribute has no pointers.
        unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
    }
}
