//! `cargo xtask bench scale`: many services with many backends, in a real `lb run` in a lab.
//!
//! `start` is from `exec` to the log's "balancing", after which packets are served; memory is the process's own
//! (anonymous, resident) and all of its maps, filled or not. `apply` is `lb apply` of the same configuration with one
//! change. `sweep` is the daemon's look at its tables once a second: what of it holds the control loop, and what the reading
//! of (empty) flow and NAT tables beside it takes. `settle` is the loop's pass over all services when one backend's
//! drain ends. The daemon's own trace says both. Backends of all services are the same 200 servers on different ports, which is what the lab has addresses
//! for: what a backend costs does not depend on its address being another's, too. `health` is off, but in the case
//! `probes`, where one real server answers all.
#![expect(clippy::expect_used, reason = "a benchmark that cannot go on should stop")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::bench::{Figure, Options, emit, progress, progress_ends};
use lb_tests::{Balancer, Lab, Mode, Process, Topology};
use serde_json::json;

/// Services, and backends of each.
const SIZES: [(usize, usize); 3] = [(1_000, 10), (1_000, 100), (1_000, 1_000)];
const QUICK: [(usize, usize); 2] = [(100, 10), (100, 100)];
/// Of the case that the target is for.
const TARGET_START_MS: f64 = 2_000.0;
const TARGET_MIB: f64 = 300.0;
/// Addresses of servers.
const SERVERS: usize = 200;
/// Backends that are probed, each once a second.
const PROBES: [usize; 3] = [100, 1_000, 5_000];
/// How long processor time is measured.
const WATCHED: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    let options = Options::from_command_line();
    let lab = Lab::build(Topology::new(Mode::Dsr, 1)).expect("a lab");
    for host in 12..11 + SERVERS {
        // The one server there is has the addresses of all.
        let mut command = lab.backends()[0].namespace.command("ip");
        command.args(["address", "add", &format!("10.77.0.{host}/24"), "dev", "eth0"]);
        assert!(command.status().is_ok_and(|status| status.success()), "it takes an address");
    }
    let binary = Balancer::binary().expect("LB_BIN says where lb is");
    let sizes = if options.quick { &QUICK[..] } else { &SIZES[..] };
    for &(services, backends) in sizes {
        let name = format!("size, {services} services, {backends} backends");
        if options.wants(&name) {
            // One round of the largest takes a minute.
            let rounds = if services * backends > 100_000 { 1 } else { options.rounds.min(5) };
            Scale { lab: &lab, binary: &binary, services, backends, rounds }.measure();
        }
    }
    if options.wants("probes") {
        let all = if options.quick { &PROBES[..1] } else { &PROBES[..] };
        all.iter().for_each(|probes| measure_probes(&lab, &binary, *probes));
    }
    progress_ends();
}

/// What of a configuration a change is to.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    None,
    /// One backend of one service comes.
    Backend,
    /// A weight in every service.
    Weights,
}

struct Scale<'a> {
    lab: &'a Lab,
    binary: &'a Path,
    services: usize,
    backends: usize,
    rounds: usize,
}

impl Scale<'_> {
    fn measure(&self) {
        let (mut start_ms, mut start_cpu_ms) = (Vec::new(), Vec::new());
        let (mut one_ms, mut every_ms, mut none_ms) = (Vec::new(), Vec::new(), Vec::new());
        let (mut sweep_us, mut read_us, mut settle_us) = (Vec::new(), Vec::new(), Vec::new());
        let (mut own, mut peak, mut maps, mut idle) = (0.0, 0.0, 0.0, 0.0);
        for round in 0..self.rounds {
            let what = format!("{} services of {} backends", self.services, self.backends);
            progress(&format!("round {} of {}: {what}", round + 1, self.rounds));
            let mut running = Running::start(self.lab, self.binary, &self.config(Change::None));
            start_ms.push(running.start_ms);
            start_cpu_ms.push(running.processor_time() * 1e3);
            // The first sweeps are behind it.
            sleep(Duration::from_secs(2));
            own = running.own_mib("RssAnon:");
            peak = running.own_mib("VmHWM:");
            maps = running.maps_mib();
            let before = running.processor_time();
            sleep(Duration::from_secs(3));
            idle = (running.processor_time() - before) / 3.0 * 100.0;
            sweep_us.extend(running.traced("swept", "loop_us="));
            read_us.extend(running.traced("swept", "read_us="));
            running.drain("service-0000/w0");
            settle_us.extend(running.traced("settled", "loop_us="));
            for (change, times) in [
                (Change::None, &mut none_ms),
                (Change::Backend, &mut one_ms),
                (Change::Weights, &mut every_ms),
            ] {
                times.extend(running.apply(&self.config(change)));
            }
            running.stop();
        }
        emit(&json!({
            "part": "scale",
            "case": "size",
            "services": self.services,
            "backends": self.backends,
            "health": "off",
            "start_ms": Figure::of(&start_ms),
            "start_cpu_ms": least(&start_cpu_ms),
            "own_mib": own,
            "peak_mib": peak,
            "maps_mib": maps,
            "all_mib": own + maps,
            "idle_cpu_percent": idle,
            "sweep_loop_us": least(&sweep_us),
            "sweep_read_us": least(&read_us),
            "settle_loop_us": least(&settle_us),
            "apply_nothing_ms": least(&none_ms),
            "apply_one_backend_ms": least(&one_ms),
            "apply_every_service_ms": least(&every_ms),
            "target_start_ms": TARGET_START_MS,
            "target_mib": TARGET_MIB,
        }));
    }

    fn config(&self, change: Change) -> String {
        let rows = self.services * self.backends;
        // Slots of 16 bits from 209 backends on; a change of all needs old and new tables, and shadows.
        let table = match self.backends {
            ..=100 => 16_448,
            101..=1_310 => 131_200,
            _ => 1_310_912,
        };
        let mut text = format!(
            "[node]\ninterfaces = [\"eth0\"]\n[node.limits]\nfrontends = {}\nbackends = {}\n\
             table_bytes = {}\n",
            self.services.max(16),
            (rows + 16).min(1 << 20),
            (self.services * table * 16 / 5 + (1 << 20)).min(1 << 30),
        );
        for service in 0..self.services {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "[[service]]\nname = \"service-{service:04}\"\nlisten = [\"192.0.2.10:{}/tcp\"]\n\
                 mode = \"nat\"\nidle_timeout = \"1s\"\nhealth = {{ none = true }}\nbackends = [\n",
                1_000 + service
            );
            let more = usize::from(change == Change::Backend && service == 0);
            for backend in 0..self.backends + more {
                let changes = change == Change::Weights && backend == 0;
                let weight = if changes { ", weight = 2" } else { "" };
                let _ = writeln!(
                    text,
                    "{{ name = \"w{backend}\", address = \"10.77.0.{}\", port = {}{weight} }},",
                    11 + backend % SERVERS,
                    8_000 + backend / SERVERS,
                );
            }
            text += "]\n";
        }
        text
    }
}

/// Bytes of a line of /proc/PID/maps, if it is a BPF map.
fn size_of_map(line: &str) -> Option<u64> {
    let (start, end) = line.strip_suffix("bpf-map")?.split(' ').next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(end)? - address(start)?)
}

fn least(values: &[f64]) -> Option<f64> {
    values.iter().copied().min_by(f64::total_cmp)
}

/// `lb run`, just started.
struct Running<'a> {
    lab: &'a Lab,
    binary: &'a Path,
    process: Process,
    start_ms: f64,
}

impl<'a> Running<'a> {
    fn start(lab: &'a Lab, binary: &'a Path, config: &str) -> Self {
        let _ = fs::remove_dir_all(lab.path("state"));
        fs::write(lab.path("scale.toml"), config).expect("a file");
        let mut command = lab.balancer().command(binary);
        command.args(["run", "-c"]).arg(lab.path("scale.toml"));
        command.env("RUST_LOG", "warn,lb_userspace=trace");
        command.arg("--socket").arg(lab.path("lb.sock")).arg("--state-dir").arg(lab.path("state"));
        let start = Instant::now();
        let mut process = Process::spawn(&mut command, &lab.path("scale.log")).expect("lb runs");
        while !process.log().contains("balancing") {
            let ended = process.exit_status();
            assert!(ended.is_none(), "lb run ended: {}", process.log());
            assert!(start.elapsed() < LIMIT, "lb run does not start: {}", process.log());
            sleep(Duration::from_millis(2));
        }
        Self { lab, binary, process, start_ms: start.elapsed().as_secs_f64() * 1e3 }
    }

    /// Milliseconds of a successful `lb apply`, with its own process; `None` if it was refused.
    fn apply(&self, config: &str) -> Option<f64> {
        fs::write(self.lab.path("next.toml"), config).expect("a file");
        let mut command = self.lab.balancer().command(self.binary);
        command.arg("--socket").arg(self.lab.path("lb.sock"));
        command.arg("apply").arg(self.lab.path("next.toml"));
        let start = Instant::now();
        let output = command.output().expect("lb apply runs");
        let took = start.elapsed().as_secs_f64() * 1e3;
        if output.status.success() {
            return Some(took);
        }
        eprintln!("lb apply failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        None
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.process.pid())).unwrap_or_default()
    }

    /// Drains a backend, and waits until that has settled: `idle_timeout` is a second.
    fn drain(&self, target: &str) {
        let mut command = self.lab.balancer().command(self.binary);
        command.arg("--socket").arg(self.lab.path("lb.sock")).args(["backend", "drain", target]);
        assert!(command.output().is_ok_and(|output| output.status.success()), "it drains");
        sleep(Duration::from_secs(2));
    }

    /// Numbers of the trace's lines that say `what`.
    fn traced(&self, what: &str, field: &str) -> Vec<f64> {
        let log = self.process.log();
        let lines = log.lines().filter(|line| line.contains(&format!(" {what} ")));
        let numbers = lines.filter_map(|line| line.split(field).nth(1)?.split(' ').next());
        numbers.filter_map(|number| number.parse().ok()).collect()
    }

    /// Its own memory, by a field of /proc/PID/status: `RssAnon` is without program text and maps.
    fn own_mib(&self, field: &str) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        kib.expect("/proc tells what is resident") / 1024.0
    }

    /// Of its BPF maps: arrays are mapped into it, the others are open files.
    fn maps_mib(&self) -> f64 {
        const ARRAY: &str = "2";
        let mapped: u64 = self.proc("maps").lines().filter_map(size_of_map).sum();
        let directory = format!("/proc/{}/fdinfo", self.process.pid());
        let files = fs::read_dir(directory).expect("/proc tells its files");
        let mut bytes = std::collections::HashMap::new();
        for file in files.filter_map(Result::ok) {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_start_matches(':').trim().to_owned())
            };
            if let (Some(id), Some(kind), Some(size)) =
                (field("map_id"), field("map_type"), field("memlock"))
                && kind != ARRAY
            {
                bytes.insert(id, size.parse::<f64>().unwrap_or_default());
            }
        }
        (bytes.values().sum::<f64>() + mapped as f64) / f64::from(1 << 20)
    }

    /// Seconds on a processor, of all its threads.
    fn processor_time(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        // SAFETY: sysconf has no preconditions.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        (ticks(11) + ticks(12)) / per_second as f64
    }

    fn stop(&mut self) {
        let _ = self.process.terminate(Duration::from_secs(30)).expect("lb run ends");
    }
}

/// Backends on one real server, probed by TCP once a second each: processor time of the daemon.
fn measure_probes(lab: &Lab, binary: &Path, probes: usize) {
    progress(&format!("{probes} probes a second"));
    let per_service = 100;
    let mut config =
        format!("[node]\ninterfaces = [\"eth0\"]\nlimits = {{ backends = {} }}\n", probes.max(16));
    for service in 0..probes / per_service {
        let _ = write!(
            config,
            "[[service]]\nname = \"service-{service:04}\"\nlisten = [\"192.0.2.10:{}/tcp\"]\n\
             mode = \"nat\"\nhealth = {{ tcp = true, port = 80, interval = \"1s\" }}\nbackends = [\n",
            1_000 + service
        );
        for backend in 0..per_service {
            let _ = writeln!(
                config,
                "{{ name = \"web-{backend:04}\", address = \"10.77.0.11\", port = {} }},",
                8_000 + backend
            );
        }
        config += "]\n";
    }
    let mut running = Running::start(lab, binary, &config);
    sleep(Duration::from_secs(3));
    let (before, start) = (running.processor_time(), Instant::now());
    sleep(WATCHED);
    let busy = (running.processor_time() - before) / start.elapsed().as_secs_f64();
    emit(&json!({
        "part": "scale",
        "case": "probes",
        "probes": probes,
        "interval_ms": 1_000,
        "cpu_percent": busy * 100.0,
        "us_per_probe": busy * 1e6 / probes as f64,
        "own_mib": running.own_mib("RssAnon:"),
    }));
    running.stop();
}
