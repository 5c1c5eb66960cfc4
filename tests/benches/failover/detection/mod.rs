//! How long real failures take to be found, beside HAProxy: one server of three fails, and all contenders probe it.
//!
//! A failure is measured by all of them at once. When it comes is random, so that it meets each one's probes anywhere
//! between two. What a contender says of it in its log is one figure; when the last new connection crossed the cable
//! towards the server is another, which needs no contender's word; and what its clients lost is the third.

mod clients;
mod contenders;
mod report;
mod said;
mod syns;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lb_tests::{
    Fault, Lab, Mode, Topology,
    bench::{Options, progress, progress_ends},
};

use clients::{Clients, PATIENCE};
use contenders::{Contender, Running};
use report::{Loss, Measured};
use said::{LOOK, Logs, Said};
use syns::Syns;

const SERVERS: u8 = 3;
/// The server that fails.
const VICTIM: u8 = 1;
/// Failures of each kind in a round, and in one of a quick run.
const FAILURES: [usize; 2] = [12, 2];
/// What takes longer is not found at all.
const LIMIT: Duration = Duration::from_secs(6);
/// The longest interval of any contender: within it the failure comes anywhere.
const PHASE: Duration = Duration::from_secs(1);

pub(crate) fn run(options: &Options) -> Result<()> {
    let is_wanted = |fault: &Fault| options.wants(&format!("detection, {}", fault.name()));
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(is_wanted).collect();
    if faults.is_empty() {
        return Ok(());
    }
    let mut scene = Scene::build()?;
    let mut measured: Vec<Measured> = faults
        .iter()
        .flat_map(|fault| scene.contenders.iter().map(|c| Measured::new(*fault, *c)))
        .collect();
    let failures = options.rounds * FAILURES[usize::from(options.quick)];
    for number in 1..=failures {
        for (fault, measured) in faults.iter().zip(measured.chunks_mut(scene.contenders.len())) {
            progress(&format!("detection: failure {number} of {failures}: {}", fault.name()));
            for (loss, measured) in scene.fail(*fault)?.into_iter().zip(measured) {
                measured.add(loss);
            }
        }
    }
    progress_ends();
    for (at, measured) in measured.iter().enumerate() {
        measured.emit(scene.false_alarms[at % scene.contenders.len()]);
    }
    Ok(())
}

struct Scene {
    contenders: Vec<Contender>,
    /// How each sees each server.
    is_up: Vec<[bool; SERVERS as usize]>,
    /// Of each: how often it took out a server that was well.
    false_alarms: Vec<u32>,
    logs: Logs,
    // Everything ends before the lab does.
    clients: Clients,
    syns: Syns,
    _running: Running,
    lab: Lab,
}

impl Scene {
    fn build() -> Result<Self> {
        let contenders = Contender::all();
        let lab = Lab::build(Topology::new(Mode::Dsr, SERVERS))?;
        let running = Running::start(&lab, &contenders)?;
        let logs = Logs::open(&running.logs())?;
        let syns = Syns::watch(&lab, VICTIM, contenders.clone())?;
        let targets = contenders.iter().map(|contender| contender.target()).collect();
        let clients = Clients::start(lab.client(), targets);
        let is_up = vec![[true; SERVERS as usize]; contenders.len()];
        let false_alarms = vec![0; contenders.len()];
        Ok(Self { contenders, is_up, false_alarms, logs, clients, syns, _running: running, lab })
    }

    /// One failure, from when all is well until all is well again: what each contender lost.
    fn fail(&mut self, fault: Fault) -> Result<Vec<Loss>> {
        self.wait_until_well(PHASE.mul_f64(random_fraction()))?;
        self.clients.take();
        self.syns.take();
        let failed = fault.cause(&self.lab, VICTIM)?;
        let found = self.wait_until_found(failed)?;
        self.look_for(afterwards(fault))?;
        let healed = Instant::now();
        fault.heal(&self.lab, VICTIM)?;
        // Until every request has ended that began while it had failed.
        self.look_for(PATIENCE)?;
        let (asked, syns) = (self.clients.take(), self.syns.take());
        let loss = |(at, found): (usize, Option<Instant>)| {
            let sent = syns.iter().filter(|(by, sent)| *by == at && *sent < healed);
            let lost = asked.iter().filter(|asked| {
                asked.target == at
                    && !asked.is_answered
                    && asked.ended > failed
                    && asked.started < healed
            });
            let lost: Vec<Instant> = lost.map(|asked| asked.started).collect();
            Loss {
                detection: found.map(|found| found.saturating_duration_since(failed)),
                failover: since(failed, sent.map(|(_, sent)| *sent).max()),
                last_failed: since(failed, lost.iter().max().copied()),
                failed: lost.len(),
            }
        };
        Ok(found.into_iter().enumerate().map(loss).collect())
    }

    /// When each contender said so.
    fn wait_until_found(&mut self, failed: Instant) -> Result<Vec<Option<Instant>>> {
        let mut found = vec![None; self.contenders.len()];
        while found.contains(&None) && failed.elapsed() < LIMIT {
            for said in self.look()? {
                if !said.is_up && said.of == usize::from(VICTIM) {
                    found[said.by].get_or_insert(said.at);
                }
            }
            sleep(LOOK);
        }
        Ok(found)
    }

    /// Until all contenders have seen the server up for so long.
    fn wait_until_well(&mut self, time: Duration) -> Result<()> {
        let began = Instant::now();
        let mut well_since = began;
        while well_since.elapsed() < time || self.is_up.iter().flatten().any(|is_up| !is_up) {
            for said in self.look()? {
                // Others are counted wherever they come.
                if !said.is_up && said.of == usize::from(VICTIM) {
                    self.false_alarms[said.by] += 1;
                }
                well_since = said.at;
            }
            if began.elapsed() > LIMIT * 10 {
                bail!("the server is well, but not to all: {:?}", self.is_up);
            }
            sleep(LOOK);
        }
        Ok(())
    }

    fn look_for(&mut self, time: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.look()?;
            sleep(LOOK);
        }
        Ok(())
    }

    /// What was said since the last look, kept in mind; each change once, where a system says it twice.
    fn look(&mut self) -> Result<Vec<Said>> {
        let names: Vec<&str> = self.lab.backends().iter().map(|b| b.name.as_str()).collect();
        let mut all = self.logs.look(&self.contenders, &names)?;
        all.retain(|said| {
            let was_up = std::mem::replace(&mut self.is_up[said.by][said.of], said.is_up);
            let is_new = was_up != said.is_up;
            if is_new && !said.is_up && said.of != usize::from(VICTIM) {
                self.false_alarms[said.by] += 1;
            }
            is_new
        });
        Ok(all)
    }
}

/// How long one looks on after all have found it: at a server that resumes where it stopped until nobody waits for it.
fn afterwards(fault: Fault) -> Duration {
    if fault == Fault::Frozen { PATIENCE } else { Duration::from_millis(100) }
}

/// From a failure to the last of what followed; nothing, if nothing did.
fn since(failed: Instant, last: Option<Instant>) -> Duration {
    last.map_or(Duration::ZERO, |last| last.saturating_duration_since(failed))
}

/// Uniform in 0..1.
fn random_fraction() -> f64 {
    // Every `RandomState` has new keys, so the hash of nothing is a fresh random number.
    let bits = RandomState::new().build_hasher().finish() >> 32;
    u32::try_from(bits).map_or(0.5, |bits| f64::from(bits) / (f64::from(u32::MAX) + 1.0))
}
