//! Attaches a program to interfaces, natively where the driver can, and says what it got.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::Xdp;

use super::link::XdpLink;
use super::load::fd;
use crate::config::model::XdpPolicy;

/// How the program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's stack, several times slower.
    Generic,
}

/// A program on one interface; detached when this is dropped, or the process ends.
#[derive(Debug)]
pub struct Attached {
    pub interface: String,
    pub index: u32,
    pub mode: Mode,
    link: XdpLink,
    _claim: Claim,
}

impl Attached {
    /// Attaches to an interface of the current network namespace.
    pub fn new(program: &Xdp, interface: &str, index: u32, policy: XdpPolicy) -> Result<Self> {
        let claim = Claim::new(interface)?;
        let program = fd(program)?;
        let native = match policy {
            XdpPolicy::Generic => None,
            XdpPolicy::Native | XdpPolicy::Auto => Some(XdpLink::new(program, index, Mode::Native)),
        };
        let (link, mode) = match native {
            Some(Ok(link)) => (link, Mode::Native),
            Some(Err(error)) if policy == XdpPolicy::Native || is_busy(&error) => {
                return Err(explain(&error, interface, policy));
            }
            other => {
                if let Some(Err(error)) = other {
                    tracing::warn!(
                        interface, reason = %error,
                        "no native XDP here; falling back to generic XDP, several times slower"
                    );
                }
                let link = XdpLink::new(program, index, Mode::Generic)
                    .map_err(|error| explain(&error, interface, policy))?;
                (link, Mode::Generic)
            }
        };
        Ok(Self { interface: interface.into(), index, mode, link, _claim: claim })
    }

    /// Has another program take the place of the one that runs, between two packets.
    pub(super) fn replace(&self, program: BorrowedFd<'_>) -> Result<()> {
        match self.link.replace(program) {
            // The interface was deleted, and its program went with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
            other => other.with_context(|| {
                format!("the kernel does not replace the program on {}", self.interface)
            }),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// A claim on an interface: a socket name in the abstract namespace, which is the network
/// namespace's own and vanishes with its owner, however that ends.
#[derive(Debug)]
struct Claim(#[expect(dead_code, reason = "held open")] UnixListener);

impl Claim {
    fn new(interface: &str) -> Result<Self> {
        let name = SocketAddr::from_abstract_name(format!("holdfast/{interface}"))
            .with_context(|| format!("cannot claim {interface}"))?;
        match UnixListener::bind_addr(&name) {
            Ok(socket) => Ok(Self(socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                "another `lb run` or `lb decap` already serves {interface}; stop it first, or use \
                 `lb` to change what it does"
            ),
            Err(error) => Err(error).with_context(|| format!("cannot claim {interface}")),
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn explain(error: &io::Error, interface: &str, policy: XdpPolicy) -> anyhow::Error {
    if is_busy(error) {
        return anyhow!(
            "{interface} already has an XDP program; see it with `ip link show {interface}`, and \
             remove it with `ip link set {interface} xdp off` if nothing needs it"
        );
    }
    match policy {
        XdpPolicy::Native => anyhow!(
            "the driver of {interface} did not take the program natively ({error}); see which \
             driver that is with `ethtool -i {interface}`, or allow the slower generic mode with \
             `--xdp auto`, or `xdp = \"auto\"` in a configuration"
        ),
        _ => anyhow!("cannot attach to {interface}: {error}"),
    }
}
