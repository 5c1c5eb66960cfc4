//! `iperf3`: streams in one direction. It takes two connections to one port, one to agree and one to send, so a service
//! must send both to one backend.

use std::{
    net::{IpAddr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    lab::{Backend, Lab},
    process::{Process, wait_until},
    topology::Family,
};

/// Port of the servers.
pub const IPERF_PORT: u16 = 5201;
/// For all that a stream of a second or two needs beside it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server, one stream at a time; killed when dropped.
#[derive(Debug)]
pub struct Iperf {
    _process: Process,
}

impl Iperf {
    /// On every backend, which must have the VIPs: one at each.
    pub fn everywhere(lab: &Lab) -> Result<Vec<Self>> {
        let all = lab.backends().iter().flat_map(|backend| Family::ALL.map(|f| (backend, f.vip())));
        all.map(|(backend, vip)| Self::start(lab, backend, vip)).collect()
    }

    fn start(lab: &Lab, backend: &Backend, vip: IpAddr) -> Result<Self> {
        let mut iperf = backend.namespace.command("iperf3");
        iperf.args(["--server", "--forceflush", "--port", &IPERF_PORT.to_string()]);
        // Else its datagrams come from the backend's own address.
        iperf.args(["--bind", &vip.to_string()]);
        let log = lab.path(format!("iperf-{}-{vip}.log", backend.name));
        let process = Process::spawn(&mut iperf, &log)?;
        if !wait_until(PATIENCE, || process.log().contains("listening")) {
            bail!("iperf3 does not listen: {}", process.log());
        }
        Ok(Self { _process: process })
    }
}

/// What a stream carries, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// TCP from the client.
    Up,
    /// TCP to the client (`-R`).
    Down,
    /// Datagrams from the client, 10 Mbit/s of them.
    Datagrams,
}

impl Stream {
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Datagrams];

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Up => &[],
            Self::Down => &["--reverse"],
            Self::Datagrams => &["--udp", "--bitrate", "10M", "--length", "1200"],
        }
    }
}

/// Bytes of a stream that lasted a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streamed {
    pub sent: u64,
    /// Of datagrams: what was not lost.
    pub received: u64,
}

/// Streams for a second from or to the lab's client; an error if it does not come to its end.
pub fn stream(lab: &Lab, server: SocketAddr, stream: Stream) -> Result<Streamed> {
    let end = Instant::now() + PATIENCE;
    loop {
        let said = run(lab, server, stream)?;
        // The last stream's client may be done before its server is.
        let busy = said["error"].as_str().is_some_and(|error| error.contains("busy"));
        if !busy || Instant::now() > end {
            return streamed(&said["end"]).with_context(|| format!("iperf3: {}", said["error"]));
        }
        sleep(Duration::from_millis(50));
    }
}

fn run(lab: &Lab, server: SocketAddr, stream: Stream) -> Result<Value> {
    let mut iperf = lab.client().command("timeout");
    iperf.args([&PATIENCE.as_secs().to_string(), "iperf3", "--json", "--time", "1", "--client"]);
    iperf.args([server.ip().to_string(), "--port".into(), server.port().to_string()]);
    let output = iperf.args(stream.options()).output().context("cannot run iperf3")?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("iperf3 ended with {} and said nothing", output.status))
}

fn streamed(end: &Value) -> Option<Streamed> {
    // Of datagrams there is one sum, of those sent, and how many did not arrive.
    if let Some(sum) = end.get("sum").filter(|sum| sum["lost_packets"].is_u64()) {
        let [sent, packets, lost] =
            ["bytes", "packets", "lost_packets"].map(|name| sum[name].as_u64());
        let (sent, packets) = (sent?, packets?);
        let received = packets.checked_sub(lost?)? * sent.checked_div(packets)?;
        return Some(Streamed { sent, received });
    }
    let [sent, received] = ["sum_sent", "sum_received"].map(|name| end[name]["bytes"].as_u64());
    Some(Streamed { sent: sent?, received: received? })
}
