//! Whether an address answers, and what is on the way there: `ping` and `traceroute`.

use std::{net::IpAddr, process::Command};

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;

/// An IP packet's bytes before a ping's payload.
fn headers(address: IpAddr) -> u16 {
    if address.is_ipv4() { 20 + 8 } else { 40 + 8 }
}

/// One ping of so many bytes of IP packet, not to be fragmented: whether it was answered within a
/// second, whole.
pub fn ping(from: &Namespace, address: IpAddr, bytes: u16) -> Result<bool> {
    let payload = bytes.saturating_sub(headers(address)).to_string();
    let mut ping = from.command("ping");
    ping.args(["-n", "-q", "-c", "1", "-W", "1", "-M", "do", "-s", &payload, "-p", "68"]);
    let output = ping.arg(address.to_string()).output().context("cannot run ping")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // It compares what came back byte by byte, and says so.
    Ok(output.status.success() && !said.contains("wrong data"))
}

/// What `traceroute` sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Pings.
    Echo,
    /// SYNs to this port.
    Tcp(u16),
    /// Datagrams to this port.
    Udp(u16),
}

/// Who answered for each hop count from 1 on, until the address itself was reached.
pub fn traceroute(from: &Namespace, address: IpAddr, probe: Probe) -> Result<Vec<Option<IpAddr>>> {
    let mut traceroute: Command = from.command("traceroute");
    traceroute.args(["-n", "-q", "1", "-w", "1", "-m", "8"]);
    match probe {
        Probe::Echo => traceroute.arg("-I"),
        Probe::Tcp(port) => traceroute.args(["-T", "-p", &port.to_string()]),
        Probe::Udp(port) => traceroute.args(["-U", "-p", &port.to_string()]),
    };
    let output = traceroute.arg(address.to_string()).output().context("cannot run traceroute")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("traceroute failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    // ` 1  10.76.0.2  0.041 ms`, or ` 1  *`, after a line that says what it does.
    let hop = |line: &str| line.split_whitespace().nth(1).and_then(|text| text.parse().ok());
    Ok(said.lines().skip(1).map(hop).collect())
}
