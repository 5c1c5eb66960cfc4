//! A backend that has a host name: it follows the name to another server, and outlives the DNS.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    thread::sleep,
    time::Duration,
};

use lb_tests::{
    Balancer, Family, Lab, Limit, Load, Mode, Process, ServiceConfig, Topology, wait_until,
};
use serde_json::Value;

/// A question every five seconds and one under way, then two probes; the rest is for a busy machine.
const FOLLOWED: Duration = Duration::from_secs(30);
const NAME: &str = "web-01.internal.example";

/// A lab whose balancer asks a dnsmasq of ours, in the namespace of the second backend.
struct Scene {
    lab: Lab,
    mode: Mode,
    family: Family,
    dnsmasq: Option<Process>,
}

impl Scene {
    /// The DNS says this of `NAME`.
    fn new(mode: Mode, family: Family, backends: &[u8]) -> Self {
        let lab = Lab::build(Topology::new(mode, 3)).unwrap();
        let server = lab.topology().backend(1, Family::V4);
        fs::write(lab.path("resolv.conf"), format!("nameserver {server}\n")).unwrap();
        let mut scene = Self { lab, mode, family, dnsmasq: None };
        scene.say(backends);
        scene.start_dns();
        scene
    }

    fn address(&self, backend: u8) -> IpAddr {
        self.lab.topology().backend(backend, self.family)
    }

    fn hosts(&self) -> PathBuf {
        self.lab.path("hosts")
    }

    /// What the DNS says from now on, of `NAME` alone.
    fn say(&self, backends: &[u8]) {
        let lines = backends.iter().map(|backend| format!("{} {NAME}\n", self.address(*backend)));
        fs::write(self.hosts(), lines.collect::<String>()).unwrap();
        if let Some(dnsmasq) = &self.dnsmasq {
            dnsmasq.signal(libc::SIGHUP);
        }
    }

    fn start_dns(&mut self) {
        let namespace = &self.lab.backend(1).unwrap().namespace;
        let mut command = namespace.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ]);
        command.args(["--user=root", "--pid-file=", "--local=/example/", "--local-ttl=1"]);
        command.arg(format!("--addn-hosts={}", self.hosts().display()));
        self.dnsmasq = Some(Process::spawn(&mut command, &self.lab.path("dnsmasq.log")).unwrap());
    }

    fn stop_dns(&mut self) {
        self.dnsmasq.take().unwrap().terminate(Duration::from_secs(10)).unwrap();
    }

    fn config(&self) -> String {
        let service = ServiceConfig {
            health: "http = \"/healthz\", port = 80, interval = \"300ms\", fast_interval = \
                     \"100ms\", timeout = \"500ms\", rise = 2, fall = 3"
                .into(),
            ..ServiceConfig::quick(self.mode, self.family)
        };
        let text = self.lab.config(&[service]);
        let third: Vec<&str> = text.lines().filter(|line| !line.contains("web-03")).collect();
        third.join("\n").replace(&format!("\"{}\"", self.address(0)), &format!("{NAME:?}"))
    }

    /// `lb run` with a `/etc/resolv.conf` of its own, with the state that an earlier one left.
    fn balancer(&self) -> Balancer {
        let wrapper = self.lab.path("lb");
        let text = format!(
            "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc/resolv.conf && exec {} \
             \"$@\"' lb \"$@\"\n",
            self.lab.path("resolv.conf").display(),
            Balancer::binary().unwrap().display()
        );
        fs::write(&wrapper, text).unwrap();
        let made = Command::new("chmod").arg("+x").arg(&wrapper).status().unwrap();
        assert!(made.success());
        Balancer::start(&self.lab, &wrapper, &self.config()).unwrap()
    }

    fn load(&self) -> Load {
        let target = SocketAddr::new(self.family.vip(), 80);
        Load::new(target, Limit::UntilStopped)
            .threads(2)
            .pause(Duration::from_millis(5))
            .timeout(Duration::from_secs(5))
    }
}

fn wait(what: &str, balancer: &Balancer, done: impl Fn(&Value) -> bool) {
    let seen = || balancer.status().unwrap();
    let came = wait_until(FOLLOWED, || done(&seen()));
    assert!(came, "{what}: {:#}\n{}", seen(), balancer.log());
}

fn named(status: &Value) -> &Value {
    &status["services"][0]["backends"][0]
}

fn warnings(status: &Value) -> String {
    status["warnings"].to_string()
}

fn follows_and_outlives(mode: Mode, family: Family) {
    let mut scene = Scene::new(mode, family, &[0]);
    let [first, other] = [0, 2].map(|backend| scene.address(backend).to_string());
    let balancer = scene.balancer();
    balancer.wait_until_up(FOLLOWED).unwrap();
    let status = balancer.status().unwrap();
    assert_eq!(
        (&named(&status)["address"], &named(&status)["host"]),
        (&first.clone().into(), &NAME.into())
    );
    let text =
        |arguments: &[&str]| String::from_utf8(balancer.cli(arguments).unwrap().stdout).unwrap();
    assert!(text(&["config"]).contains(&format!("address = {NAME:?}")), "{}", text(&["config"]));
    for command in [&["status"][..], &["backend", "list"]] {
        let shown = text(command);
        let line = shown.lines().find(|line| line.starts_with("web/web-01 ")).unwrap();
        assert!(line.contains(NAME) && line.contains(&first), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    }

    let load = scene.load().start(scene.lab.client());
    sleep(Duration::from_secs(1));
    scene.say(&[2]);
    wait("it follows", &balancer, |status| {
        named(status)["address"] == *other && named(status)["state"] == "serving"
    });
    sleep(Duration::from_secs(1));
    // Every request is answered, those of the old server's connections and those after them.
    let report = load.stop().unwrap();
    assert_eq!(report.failures(), 0, "{:?}: {}", report.failure_kinds(), balancer.log());
    let served: Vec<_> = report.served_by().into_keys().collect();
    assert_eq!(served, ["web-01", "web-02", "web-03"]);
    let after = scene.load();
    let after = Load { limit: Limit::Requests(200), ..after }.run(scene.lab.client()).unwrap();
    let served: Vec<_> = after.served_by().into_keys().collect();
    assert_eq!((served, after.failures()), (vec!["web-02".to_owned(), "web-03".into()], 0));

    // The name gives the address of another backend: refused, and nothing changes.
    scene.say(&[1]);
    wait("it is refused", &balancer, |status| warnings(status).contains("in this service twice"));
    assert_eq!(named(&balancer.status().unwrap())["address"], *other);
    scene.say(&[2]);
    wait("it is well", &balancer, |status| status["warnings"] == Value::Array(Vec::new()));

    // No record, and then no server.
    scene.say(&[]);
    wait("the warning", &balancer, |status| {
        warnings(status).contains("does not resolve: NXDOMAIN")
    });
    scene.stop_dns();
    wait("another reason", &balancer, |status| {
        let warnings = warnings(status);
        warnings.contains(&format!("keeps its last address {other}"))
            && !warnings.contains("NXDOMAIN")
    });
    let load = Load { limit: Limit::For(Duration::from_secs(2)), ..scene.load() };
    let report = load.run(scene.lab.client()).unwrap();
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    assert_eq!(named(&balancer.status().unwrap())["state"], "serving");

    // A restart without the DNS goes on with what was known.
    balancer.stop().unwrap();
    let balancer = scene.balancer();
    balancer.wait_until_up(FOLLOWED).unwrap();
    assert_eq!(named(&balancer.status().unwrap())["address"], *other);
    scene.say(&[0]);
    scene.start_dns();
    wait("it follows again", &balancer, |status| {
        named(status)["address"] == *first && named(status)["state"] == "serving"
    });
    balancer.stop().unwrap();
}

#[test]
fn a_backend_in_nat_follows_its_name_and_outlives_the_dns() {
    follows_and_outlives(Mode::Nat, Family::V4);
}

/// The VIP is of IPv6, so the name is asked for AAAA records.
#[test]
fn a_backend_in_dsr_follows_its_name_and_outlives_the_dns() {
    follows_and_outlives(Mode::Dsr, Family::V6);
}

#[test]
fn a_name_that_nobody_knows_is_no_reason_not_to_start() {
    let mut scene = Scene::new(Mode::Nat, Family::V4, &[]);
    let balancer = scene.balancer();
    balancer.wait_for_health("web", "web-02", "up", FOLLOWED).unwrap();
    let backend = balancer.backend("web", "web-01").unwrap();
    assert_eq!(backend["address"], Value::Null);
    let reason = format!("name: {NAME} does not resolve: NXDOMAIN");
    assert_eq!((&backend["excluded"], &backend["state"]), (&reason.into(), &"down".into()));
    let load = Load { limit: Limit::Requests(100), ..scene.load() };
    let report = load.run(scene.lab.client()).unwrap();
    assert_eq!((report.failures(), report.served_by()["web-02"]), (0, 100));

    // A change that brings a name waits for its address: it is there from the first moment.
    scene.say(&[0]);
    balancer.wait_for_state("web", "web-01", "serving", FOLLOWED).unwrap();
    let removed = balancer.cli(&["backend", "remove", "web/web-01", "--force"]).unwrap();
    assert!(removed.status.success());
    let added = balancer.json(&["backend", "add", "web/web-04", "--address", NAME]).unwrap();
    assert_eq!(added["changes"][0], format!("web/web-04: added at {NAME}, weight 1"));
    let address = scene.address(0).to_string();
    assert_eq!(balancer.backend("web", "web-04").unwrap()["address"], *address);
    // And one whose name gives the address of another backend is refused.
    scene.say(&[1]);
    wait("it keeps its own", &balancer, |status| {
        warnings(status).contains("in this service twice")
    });
    let twice = ["backend", "add", "web/web-05", "--address", NAME];
    let twice = balancer.cli(&twice).unwrap();
    assert!(!twice.status.success());
    let said = String::from_utf8(twice.stderr).unwrap();
    assert!(said.contains(&format!("{NAME} is in this service twice")), "{said}");
    // One that nobody knows is taken, but not without a word.
    let nobody = format!("nobody-{NAME}");
    let added = balancer.json(&["backend", "add", "web/web-06", "--address", &nobody]).unwrap();
    let said = added["warnings"].to_string();
    assert!(said.contains(&format!("{nobody} does not resolve")), "{added}");
    assert!(said.contains("out of service until it has an address"), "{added}");
    balancer.stop().unwrap();
    scene.stop_dns();
}
