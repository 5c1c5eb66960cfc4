//! Attaches XDP programs of a few instructions to a link, and takes them off.
//!
//! They are attached over netlink, as they then stay when this process has ended.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read, Write},
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;

/// A program, as the kernel's instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program(&'static [u64]);

/// All frames pass.
///
/// A veth delivers frames that an XDP program transmits only if its peer takes frames too, that is, has an XDP
/// program of its own; with GRO alone it loses all after some 256. So the bridge's port of the balancer gets this one.
pub(crate) const PASS: Program =
    Program(&[instruction(MOVE, 0, 0, 0, XDP_PASS), instruction(EXIT, 0, 0, 0, 0)]);

/// No IPv4 arrives, and of IPv6 only ICMP: neighbours are still answered, and nothing else.
pub(crate) const SILENCE: Program = Program(&[
    // xdp_md: r2 = data, r3 = data_end
    instruction(LOAD_32, 2, 1, 0, 0),
    instruction(LOAD_32, 3, 1, 4, 0),
    // Up to the next header of IPv6; shorter frames pass.
    instruction(COPY, 4, 2, 0, 0),
    instruction(ADD, 4, 0, 0, 21),
    instruction(JUMP_IF_GREATER, 4, 3, 6, 0),
    instruction(LOAD_16, 5, 2, 12, 0),
    instruction(JUMP_IF_EQUAL, 5, 0, 6, ETHERTYPE_IPV4),
    instruction(JUMP_UNLESS_EQUAL, 5, 0, 3, ETHERTYPE_IPV6),
    instruction(LOAD_8, 5, 2, 20, 0),
    instruction(JUMP_IF_EQUAL, 5, 0, 1, ICMPV6),
    instruction(JUMP, 0, 0, 2, 0),
    instruction(MOVE, 0, 0, 0, XDP_PASS),
    instruction(EXIT, 0, 0, 0, 0),
    instruction(MOVE, 0, 0, 0, XDP_DROP),
    instruction(EXIT, 0, 0, 0, 0),
]);

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// As a load of 16 bits finds them.
const ETHERTYPE_IPV4: u32 = 0x0800u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86ddu16.to_be() as u32;
const ICMPV6: u32 = 58;

// Of the kernel's Documentation/bpf/standardization/instruction-set.rst.
const MOVE: u8 = 0xb7;
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
const LOAD_8: u8 = 0x71;
const LOAD_16: u8 = 0x69;
const LOAD_32: u8 = 0x61;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_IF_GREATER: u8 = 0x2d;
const EXIT: u8 = 0x95;

/// struct bpf_insn: operation, destination and source register, offset, constant.
const fn instruction(code: u8, to: u8, from: u8, offset: u16, constant: u32) -> u64 {
    let registers = from << 4 | to;
    let [code, registers] = [code as u64, registers as u64];
    code | registers << 8 | (offset as u64) << 16 | (constant as u64) << 32
}

pub(crate) fn attach(namespace: &Namespace, link: &str, program: Program) -> Result<()> {
    let attached = namespace.enter(|| {
        let program = load(program).context("cannot load an XDP program")?;
        set_link_program(link, program.as_raw_fd())
    })?;
    attached.with_context(|| format!("cannot attach XDP to {link} in {}", namespace.name()))
}

/// Takes off whatever program is attached to the link.
pub(crate) fn detach(namespace: &Namespace, link: &str) -> Result<()> {
    let detached = namespace.enter(|| set_link_program(link, NO_PROGRAM))?;
    detached.with_context(|| format!("cannot detach XDP from {link} in {}", namespace.name()))
}

/// The first fields of the kernel's `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct LoadProgram {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;

fn load(Program(instructions): Program) -> io::Result<OwnedFd> {
    let attributes = LoadProgram {
        program_type: BPF_PROG_TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: the structure is the start of the kernel's and its size is passed; instructions and licence are
    // static.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadProgram>())
    };
    owned(fd)
}

const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const XDP_FLAGS_DRV_MODE: u32 = 4;
const NLA_F_NESTED: u16 = 1 << 15;
/// In the place of a program's descriptor.
const NO_PROGRAM: i32 = -1;

/// RTM_SETLINK with IFLA_XDP { IFLA_XDP_FD, IFLA_XDP_FLAGS }.
fn set_link_program(link: &str, program: i32) -> Result<()> {
    let name = CString::new(link)?;
    // SAFETY: `name` is a NUL-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        bail!("no link {link}");
    }
    // SAFETY: socket takes no pointers.
    let socket = owned(libc::c_long::from(unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
    }))?;
    let mut socket = File::from(socket);
    socket.write_all(&request(index, program))?;
    let mut answer = [0; 4096];
    let length = socket.read(&mut answer)?;
    // struct nlmsghdr (16 bytes), then the error as a negative errno; 0 acknowledges.
    let Some(code) = answer.get(16..20).filter(|_| length >= 20) else {
        bail!("short answer from netlink");
    };
    match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error).into()),
    }
}

fn request(index: u32, program: i32) -> Vec<u8> {
    let xdp = [
        attribute(IFLA_XDP_FD, &program.to_ne_bytes()),
        attribute(IFLA_XDP_FLAGS, &XDP_FLAGS_DRV_MODE.to_ne_bytes()),
    ]
    .concat();
    let mut body = vec![0; 16]; // struct ifinfomsg: only the index matters
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body.extend(attribute(IFLA_XDP | NLA_F_NESTED, &xdp));

    let mut message = Vec::with_capacity(16 + body.len());
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(libc::RTM_SETLINK.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]); // sequence number, port
    message.extend(body);
    message
}

/// All payloads here are multiples of 4 bytes, so no padding is needed.
fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = 4 + payload.len() as u16;
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), payload].concat()
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: a fresh descriptor that the kernel has just returned and nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
