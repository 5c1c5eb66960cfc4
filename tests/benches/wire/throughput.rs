//! Frames as fast as one core makes, balances and receives them.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::{Family, Mode};

use crate::{
    abi::{DEEP, DROP, Expect, LOAD, WRONG_ADDRESS, WRONG_BACKEND, WRONG_CHECKSUM, WRONG_MAC},
    frame::{Segment, job},
    lanes::{Lane, System},
    programs::Programs,
};

/// What became of frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// With another destination, source, checksum or backend than they should have.
    pub(crate) wrong: u64,
    /// By backend.
    pub(crate) backends: Vec<u64>,
    /// Counters of what was wrong: MAC address, address, checksum, backend; and elsewhere.
    pub(crate) faults: [u64; 5],
}

impl Arrivals {
    pub(crate) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.wrong += other.wrong;
        self.backends.resize(other.backends.len().max(self.backends.len()), 0);
        self.backends.iter_mut().zip(&other.backends).for_each(|(sum, more)| *sum += more);
        self.faults.iter_mut().zip(&other.faults).for_each(|(sum, more)| *sum += more);
    }

    fn of(system: System, sent: u64, counts: &[u64]) -> Self {
        let arrives_at = system.arrives_at();
        let faults = [WRONG_MAC, WRONG_ADDRESS, WRONG_CHECKSUM, WRONG_BACKEND]
            .map(|counter| counts.get(counter as usize).copied().unwrap_or_default());
        let numbers = || counts.iter().take(WRONG_MAC as usize).enumerate();
        let elsewhere: u64 =
            numbers().filter(|(number, _)| !arrives_at.contains(number)).map(|(_, n)| n).sum();
        let backends: Vec<u64> = numbers()
            .filter(|(number, _)| arrives_at.contains(number))
            .map(|(_, count)| *count)
            .collect();
        let wrong = faults.iter().sum::<u64>() + elsewhere;
        let [a, b, c, d] = faults;
        Self {
            sent,
            received: backends.iter().sum::<u64>() + wrong,
            wrong,
            backends,
            faults: [a, b, c, d, elsewhere],
        }
    }
}

/// Frames of one window: some milliseconds, so that there are windows in which nobody else has the
/// core. Flows go on from one window to the next.
pub(crate) fn window(system: System) -> u32 {
    if system == System::Nftables { 1 << 12 } else { 1 << 14 }
}

/// What a lane is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) family: Family,
    pub(crate) flows: u32,
}

/// Looks closely at each flow, twice.
pub(crate) fn verify(
    programs: &mut Programs,
    lane: &Lane,
    traffic: Traffic,
    pass: u32,
) -> Result<Arrivals> {
    if lane.system == System::Generator {
        return Ok(Arrivals::default());
    }
    open(programs, lane, traffic)?;
    let twice =
        Burst { segment: Segment::Ack, windows: 2, frames: traffic.flows, deep: DEEP, pass };
    Ok(burst(programs, lane, traffic, &twice)?.1)
}

/// Windows, one after the other: how long each took, in nanoseconds a frame.
pub(crate) fn measure(
    programs: &mut Programs,
    lane: &Lane,
    traffic: Traffic,
    windows: u32,
) -> Result<(Vec<f64>, Arrivals)> {
    let frames = window(lane.system);
    open(programs, lane, traffic)?;
    let (times, arrivals) = burst(
        programs,
        lane,
        traffic,
        &Burst { segment: Segment::Ack, windows, frames, deep: 0, pass: 1 },
    )?;
    Ok((times.iter().map(|time| time.as_nanos() as f64).collect(), arrivals))
}

/// In `nat` a connection begins with a SYN. Nobody answers these, so they are forgotten some
/// seconds after their last packet, and each measurement opens them anew.
pub(crate) fn open(programs: &mut Programs, lane: &Lane, traffic: Traffic) -> Result<()> {
    if lane.system == System::Holdfast(Mode::Nat) {
        let once =
            Burst { segment: Segment::Syn, windows: 1, frames: traffic.flows, deep: 0, pass: 1 };
        burst(programs, lane, traffic, &once)?;
    }
    Ok(())
}

struct Burst {
    segment: Segment,
    windows: u32,
    /// Of each window.
    frames: u32,
    /// 0 or [`DEEP`].
    deep: u32,
    pass: u32,
}

fn burst(
    programs: &mut Programs,
    lane: &Lane,
    traffic: Traffic,
    burst: &Burst,
) -> Result<(Vec<Duration>, Arrivals)> {
    let Burst { segment, windows, frames, deep, pass } = *burst;
    ensure!(traffic.flows.is_power_of_two(), "flows are a power of two");
    let (mut job, frame) = job(traffic.family, traffic.flows, segment);
    let is_sent = lane.system != System::Generator;
    if !is_sent {
        job.flags |= DROP;
    }
    programs.set_job(LOAD, job)?;
    programs.expect(expect(lane.system, traffic.family, deep, pass))?;
    let before = programs.counts()?;
    let times = (0..windows)
        .map(|_| programs.send(LOAD, &frame, lane.interface, frames))
        .collect::<Result<Vec<_>>>()?;
    if !is_sent {
        return Ok((times, Arrivals::default()));
    }
    let after = programs.counts()?;
    let since: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let sent = u64::from(windows) * u64::from(frames);
    Ok((times, Arrivals::of(lane.system, sent, &since)))
}

pub(crate) fn expect(system: System, family: Family, deep: u32, pass: u32) -> Expect {
    let vip = match family.vip() {
        std::net::IpAddr::V4(vip) => vip.octets().to_vec(),
        std::net::IpAddr::V6(vip) => vip.octets().to_vec(),
    };
    let end = vip.last_chunk::<2>().copied().unwrap_or_default();
    Expect {
        flags: system.expect() | deep,
        vip: u16::from_ne_bytes(end).into(),
        pass: pass & 0xff,
        padding: 0,
    }
}
