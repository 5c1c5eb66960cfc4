//! The program is loaded with what the configuration needs. A change that needs more has it replaced
//! by another while it runs, and nobody notices.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, Family, Lab, Limit, Load, LongConnections, Mode, Process, RunningConnections,
    RunningLoad, ServiceConfig, Topology,
};

const UP: Duration = Duration::from_secs(10);
/// One a millisecond: longer than the changes take.
const PINGS: u64 = 8_000;

/// `dsr` under load, on backends that open tunnels as well.
struct Scene {
    family: Family,
    load: RunningLoad,
    connections: RunningConnections,
    ping: Child,
    balancer: Balancer,
    _decap: Vec<Process>,
    lab: Lab,
}

impl Scene {
    fn start(family: Family) -> Self {
        let lab = Lab::build(Topology::new(Mode::Dsr, 4)).unwrap();
        let decap = lab.backends().iter().map(|backend| {
            let mut command = backend.namespace.command(Balancer::binary().unwrap());
            command.args(["decap", "eth0", "--from", "10.77.0.2,fd77::2"]);
            let log = lab.path(format!("decap-{}.log", backend.name));
            let process = Process::spawn(&mut command, &log).unwrap();
            wait(|| process.log().contains("decapsulating"));
            process
        });
        let decap = decap.collect();
        let balancer = Balancer::start(&lab, &Balancer::binary().unwrap(), &{
            config(&lab, family, "web", family.vip(), 0..2, "dsr")
        });
        let balancer = balancer.unwrap();
        balancer.wait_until_up(UP).unwrap();

        let target = SocketAddr::new(family.vip(), 80);
        let load =
            Load::new(target, Limit::UntilStopped).threads(4).pause(Duration::from_millis(2));
        let load = load.start(lab.client());
        let connections = LongConnections::new(target, 16).start(lab.client());
        let mut ping = lab.client().command("ping");
        ping.args(["-q", "-i", "0.001", "-c", &PINGS.to_string(), &family.vip().to_string()]);
        let ping = ping.stdout(Stdio::piped()).spawn().unwrap();
        sleep(Duration::from_millis(500));
        Self { family, load, connections, ping, balancer, _decap: decap, lab }
    }

    fn features(&self) -> Vec<String> {
        let status = self.balancer.status().unwrap();
        let features = status["features"].as_array().unwrap();
        features.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    fn apply(&self, config: &str) {
        let path = self.lab.path("next.toml");
        fs::write(&path, config).unwrap();
        let began = Instant::now();
        let output = self.balancer.cli(&["apply".as_ref(), path.as_os_str()]).unwrap();
        println!("applied from {began:?} to {:?}", Instant::now());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}\n{config}");
    }

    /// The load was served, whatever happened.
    fn end(mut self) {
        assert!(self.ping.try_wait().unwrap().is_none(), "pings end after the last change");
        sleep(Duration::from_millis(500));
        let report = self.load.stop().unwrap();
        println!("{}: {} requests", self.family, report.requests.len());
        let output = self.ping.wait_with_output().unwrap();
        let pings = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{}", pings.lines().rev().nth(1).unwrap_or_default());
        let status = self.balancer.status().unwrap();
        let verdicts = status["counters"]["verdicts"].as_array().unwrap();
        for verdict in verdicts.iter().filter(|v| v["kind"] == "drop" && v["count"] != 0) {
            println!("{}: {}", verdict["name"], verdict["count"]);
        }
        for request in report.requests.iter().filter(|request| request.failed()) {
            println!("{:?} ago: {request:?}", request.started.elapsed());
        }
        assert_eq!(report.failures(), 0, "{:?}\n{}", report.failure_kinds(), self.balancer.log());
        for connection in self.connections.stop().unwrap() {
            assert_eq!((connection.broken, connection.moved_to), (None, None));
        }
        let all = format!("{PINGS} packets transmitted, {PINGS} received");
        assert!(pings.contains(&all), "{pings}");
        assert_eq!(self.balancer.count().unwrap().of("drop-internal").unwrap(), 0);
        let log = self.balancer.log();
        log.lines().filter(|line| line.contains("instructions=")).for_each(|l| println!("{l}"));

        self.balancer.stop().unwrap();
        let output = self.lab.balancer().command("ip").args(["link", "show", "eth0"]).output();
        let said = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
        assert!(!said.contains("xdp"), "a replaced program leaves with the first: {said}");
    }
}

fn wait(until: impl Fn() -> bool) {
    let end = Instant::now() + UP;
    while !until() {
        assert!(Instant::now() < end);
        sleep(Duration::from_millis(5));
    }
}

/// One service on some of the lab's backends.
fn service(
    lab: &Lab,
    family: Family,
    name: &str,
    vip: IpAddr,
    backends: std::ops::Range<u8>,
    mode: &str,
) -> String {
    let backends = backends.map(|index| {
        let address = lab.topology().backend(index, family);
        format!(
            "  {{ name = \"{}\", address = \"{address}\" }},\n",
            lab.backends()[index as usize].name
        )
    });
    format!(
        "[[service]]\nname = \"{name}\"\nlisten = [\"{}/tcp\"]\nmode = \"{mode}\"\n\
         health = {{ {} }}\nidle_timeout = \"3s\"\nbackends = [\n{}]\n",
        SocketAddr::new(vip, 80),
        ServiceConfig::quick(Mode::Dsr, family).health,
        backends.collect::<String>()
    )
}

fn config(
    lab: &Lab,
    family: Family,
    name: &str,
    vip: IpAddr,
    backends: std::ops::Range<u8>,
    mode: &str,
) -> String {
    lab.config(&[]) + &service(lab, family, name, vip, backends, mode)
}

/// The service under load itself changes its mode, three times.
fn modes_change(family: Family, tunnel: &str) {
    let scene = Scene::start(family);
    assert!(scene.features().is_empty(), "{:?}", scene.features());
    for (mode, features) in
        [("ipip", vec![tunnel]), ("gue", vec![tunnel]), ("nat", vec!["nat", tunnel])]
    {
        scene.apply(&config(&scene.lab, family, "web", family.vip(), 0..2, mode));
        assert_eq!(scene.features(), features);
        sleep(Duration::from_millis(700));
    }
    // What is not needed any more stays.
    scene.apply(&config(&scene.lab, family, "web", family.vip(), 0..2, "dsr"));
    assert_eq!(scene.features(), ["nat", tunnel]);
    scene.end();
}

#[test]
fn a_service_changes_its_mode_under_load_v4() {
    modes_change(Family::V4, "tunnel4");
}

#[test]
fn a_service_changes_its_mode_under_load_v6() {
    modes_change(Family::V6, "tunnel6");
}

/// Others come beside it, which need all that it does not.
#[test]
fn services_come_that_need_more() {
    let scene = Scene::start(Family::V4);
    let lab = &scene.lab;
    let vips = ["192.0.2.20", "192.0.2.30"].map(|vip| vip.parse::<IpAddr>().unwrap());
    lab.configure_dsr_vips(&vips).unwrap();
    let mut all = config(lab, Family::V4, "web", Family::V4.vip(), 0..2, "dsr");
    for (name, family, vip, backends, mode, feature) in [
        ("tunnelled", Family::V6, vips[0], 2..3, "gue", "tunnel6"),
        ("translated", Family::V4, vips[1], 3..4, "nat", "nat"),
    ] {
        all += &service(lab, family, name, vip, backends, mode);
        scene.apply(&all);
        assert!(scene.features().iter().any(|name| name == feature));
        scene.balancer.wait_until_up(UP).unwrap();
        let load = Load::new(SocketAddr::new(vip, 80), Limit::Requests(40)).threads(4);
        let report = load.run(lab.client()).unwrap();
        assert_eq!(report.failures(), 0, "{name}: {:?}", report.failure_kinds());
    }
    // Somebody else.
    let output = scene.balancer.cli(&["block", "add", "198.51.100.0/24"]).unwrap();
    assert!(output.status.success());
    assert_eq!(scene.features(), ["nat", "tunnel6", "filters"]);
    scene.end();
}
