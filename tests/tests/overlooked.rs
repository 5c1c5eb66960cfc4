//! What is easily overlooked, and is told: a maintenance past its end, and probes that cannot be made.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, Family, Lab, Mode, Namespace, ServiceConfig, Topology, Webhook, said, wait_until,
};
use serde_json::Value;

/// For a message to be made and sent on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

struct Scene {
    lab: Lab,
    webhook: Webhook,
    balancer: Balancer,
}

impl Scene {
    /// Two backends and a webhook that is told everything; `change` may edit the configuration.
    fn start(health: &str, change: impl FnOnce(String) -> String) -> Self {
        let lab = Lab::build(Topology::new(Mode::Nat, 2)).unwrap();
        ip(lab.balancer(), &format!("address add {SOURCE}/24 dev eth0"));
        let webhook = Webhook::start(lab.balancer()).unwrap();
        let mut service = ServiceConfig::quick(Mode::Nat, Family::V4);
        service.health += health;
        let alert = format!("\n[[alert]]\nwebhook = \"http://{}/\"\n", webhook.address());
        let config = change(lab.config(&[service])) + &alert;
        let balancer = Balancer::start(&lab, &Balancer::binary().unwrap(), &config).unwrap();
        balancer.wait_until_up(LIMIT).unwrap();
        Self { lab, webhook, balancer }
    }

    /// The warning of a kind that `lb status` has, if any.
    fn warning(&self, kind: &str) -> Option<Value> {
        let status = self.balancer.status().unwrap();
        let warnings = status["warnings"].as_array().unwrap();
        warnings.iter().find(|warning| warning["kind"] == kind).cloned()
    }

    fn wait_for_warning(&self, kind: &str, is_there: bool) -> Option<Value> {
        let mut warning = None;
        let came = wait_until(LIMIT, || {
            warning = self.warning(kind);
            warning.is_some() == is_there
        });
        assert!(came, "{kind}, wanted: {is_there}: {}", self.balancer.log());
        warning
    }

    /// Waits until a message has this.
    fn wait_until_told(&self, what: &str) {
        let told = || said(&self.webhook.posts()).unwrap();
        let came = wait_until(LIMIT, || told().iter().any(|said| said == what));
        assert!(came, "{what}: {:?}", told());
    }

    fn backend(&self, name: &str) -> Value {
        self.balancer.backend("web", name).unwrap()
    }

    /// What `lb status` prints.
    fn shown(&self) -> String {
        String::from_utf8(self.balancer.cli(&["status"]).unwrap().stdout).unwrap()
    }
}

/// An address of the balancer that probes come from, and it sends nothing else from.
const SOURCE: &str = "10.77.0.99";

fn ip(namespace: &Namespace, arguments: &str) {
    let status = namespace.command("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn a_standby_in_maintenance_past_its_end_is_told_and_stays() {
    let scene = Scene::start("", |config| {
        config.replace("name = \"web-02\",", "name = \"web-02\", backup = true,")
    });
    let maint =
        ["backend", "maint", "web/web-02", "--for", "5s", "--reason", "new disk", "--force"];
    let done = scene.balancer.cli(&maint).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let began = Instant::now();
    if let Some(warning) = scene.warning("override-expired") {
        assert!(began.elapsed() >= Duration::from_secs(4), "before its end: {warning}");
    }
    let warning = scene.wait_for_warning("override-expired", true).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(4), "before its end: {warning}");
    assert_eq!(
        (&warning["subject"], &warning["severity"]),
        (&"web/web-02".into(), &"warning".into())
    );
    let message = warning["message"].as_str().unwrap();
    assert!(message.starts_with("is still in maintenance by uid 0 (\"new disk\"), "), "{message}");
    assert_eq!(warning["next"], "lb backend ready web/web-02");
    assert!(scene.shown().contains("is still in maintenance"), "{}", scene.shown());
    scene.wait_until_told("firing override-expired web/web-02");

    // Its own end puts nobody back.
    let backend = scene.backend("web-02");
    assert_eq!(backend["admin"]["state"], "maintenance", "{backend}");
    assert!(backend["admin"]["ends_in_ms"].as_i64().unwrap() < 0, "{backend}");
    assert_eq!(backend["excluded"], "in maintenance by uid 0: new disk");

    scene.balancer.json(&["backend", "ready", "web/web-02"]).unwrap();
    scene.wait_for_warning("override-expired", false);
    scene.wait_until_told("resolved override-expired web/web-02");
    assert_eq!(scene.backend("web-02")["admin"]["state"], "ready");
    assert_eq!(scene.backend("web-02")["excluded"], "a backup: enough of the others are well");
    scene.balancer.stop().unwrap();
}

#[test]
fn probes_that_cannot_be_made_are_told_and_move_nobody() {
    let scene = Scene::start(&format!(", source = \"{SOURCE}\""), |config| config);
    assert_eq!(scene.warning("no-probe"), None);
    ip(scene.lab.balancer(), &format!("address del {SOURCE}/24 dev eth0"));
    let warning = scene.wait_for_warning("no-probe", true).unwrap();
    assert_eq!((&warning["subject"], &warning["severity"]), (&"web".into(), &"warning".into()));
    scene.wait_until_told("firing no-probe web");
    let message = scene.warning("no-probe").unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("cannot be probed (2 of 2 backends): "), "{message}");
    let why = format!("a socket from {SOURCE}");
    assert!(message.contains(&why) && message.contains("no interface has this"), "{message}");
    assert!(message.ends_with("they keep the health that they had"), "{message}");
    let shown = scene.shown();
    assert!(shown.contains("! web cannot be probed") && shown.contains("unprobed"), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");

    // Nobody would notice now that one dies, and nobody is moved.
    scene.lab.kill_backend(0).unwrap();
    sleep(lb_tests::QUICK_DETECTION + Duration::from_secs(1));
    for name in ["web-01", "web-02"] {
        let health = scene.backend(name)["health"].clone();
        assert_eq!((&health["state"], &health["last_failure"]), (&"up".into(), &Value::Null));
        let unprobed = &health["unprobed"];
        assert!(unprobed["text"].as_str().unwrap().contains(SOURCE), "{health}");
        assert!(unprobed["since_ms"].as_u64().unwrap() >= 1_000, "{health}");
    }

    ip(scene.lab.balancer(), &format!("address add {SOURCE}/24 dev eth0"));
    scene.balancer.wait_for_health("web", "web-01", "down", LIMIT).unwrap();
    scene.wait_for_warning("no-probe", false);
    scene.wait_until_told("resolved no-probe web");
    assert_eq!(scene.backend("web-02")["health"]["unprobed"], Value::Null);
    scene.balancer.stop().unwrap();
}
