//! Frames on a link, as they pass: read and written by hand.

use std::{
    ffi::CString,
    io::{self, Read},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;

/// All frames that a link of a namespace sends or receives, from its start to its stop.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Vec<u8>>>>,
}

impl Capture {
    pub fn start(namespace: &Namespace, link: &str) -> Result<Self> {
        let mut socket = namespace.enter(|| packet_socket(link))??;
        // Room for what comes while the reader waits for a processor.
        socket.set_recv_buffer_size(8 << 20).context("cannot size a packet socket's buffer")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut frames = Vec::new();
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                while let Ok(length) = socket.read(&mut buffer) {
                    frames.push(buffer[..length].to_vec());
                }
            }
            frames
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    pub fn stop(mut self) -> Vec<Vec<u8>> {
        self.end()
    }

    fn end(&mut self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        let frames = self.thread.take().map(JoinHandle::join);
        frames.and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// A packet socket on a link of this thread's namespace; reading waits 20 ms at most.
pub fn packet_socket(link: &str) -> Result<Socket> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(all))))?;
    // Not /sys, which is of the namespace that mounted it.
    let name = CString::new(link)?;
    // SAFETY: `name` is a NUL-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: all zeroes are a valid `sockaddr_ll`.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = all;
    to.sll_ifindex = i32::try_from(index)?;
    // SAFETY: the address is a `sockaddr_ll` of the size given and outlives the call.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound != 0 || index == 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("no packets of {link}"));
    }
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}
