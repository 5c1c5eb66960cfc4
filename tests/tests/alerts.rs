//! Who is told when a backend fails: a webhook and a program, once, and again when it is over.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, Family, Lab, Mode, QUICK_DETECTION, ServiceConfig, Topology, Webhook, said,
};
use serde_json::Value;

const VICTIM: usize = 1;
const NAME: &str = "web-02";
/// For a message to be made and sent on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

struct Scene {
    lab: Lab,
    webhook: Webhook,
    balancer: Balancer,
}

impl Scene {
    /// Two backends, and whom `alerts` says beside the webhook.
    fn start(alerts: impl FnOnce(&Lab, &Webhook) -> String) -> Self {
        let lab = Lab::build(Topology::new(Mode::Nat, 2)).unwrap();
        let webhook = Webhook::start(lab.balancer()).unwrap();
        let service = ServiceConfig::quick(Mode::Nat, Family::V4);
        let config = lab.config(&[service]) + &alerts(&lab, &webhook);
        let balancer = Balancer::start(&lab, &Balancer::binary().unwrap(), &config).unwrap();
        balancer.wait_until_up(Duration::from_secs(10)).unwrap();
        Self { lab, webhook, balancer }
    }

    fn kill(&self) {
        self.lab.backend(VICTIM).unwrap().nginx.kill().unwrap();
    }

    fn mend(&self) {
        self.lab.backend(VICTIM).unwrap().nginx.start().unwrap();
    }

    fn alerts(&self) -> Value {
        self.balancer.json(&["alerts"]).unwrap()
    }

    /// Waits until so many targets took the worst alert, as far as the daemon knows.
    fn wait_until_told(&self, targets: usize) -> Value {
        let limit = Instant::now() + LIMIT;
        loop {
            let all = self.alerts();
            if notified(&all).len() == targets {
                return all;
            }
            assert!(Instant::now() < limit, "{all:#}");
            sleep(Duration::from_millis(50));
        }
    }
}

fn to_webhook(webhook: &Webhook) -> String {
    format!("\n[[alert]]\nwebhook = \"http://{}/hook\"\n", webhook.address())
}

/// Who was told of the worst alert.
fn notified(all: &Value) -> &[Value] {
    all["alerts"][0]["notified"].as_array().unwrap()
}

#[test]
fn a_killed_backend_is_told_once_and_so_is_its_return() {
    let mut headers = String::new();
    let scene = Scene::start(|lab, webhook| {
        headers = lab.path("headers").display().to_string();
        fs::write(&headers, "Authorization: Bearer s3cret\n").unwrap();
        let script = format!("cat >> {0}; echo >> {0}", lab.path("program").display());
        let program = format!("[[alert]]\nexec = [\"/bin/sh\", \"-c\", \"{script}\"]\n");
        to_webhook(webhook) + &format!("headers_file = \"{headers}\"\n") + &program
    });
    assert!(scene.alerts()["alerts"].as_array().unwrap().is_empty());

    scene.kill();
    let posts = scene.webhook.wait_for(1, LIMIT).unwrap();
    let post = &posts[0];
    assert!(post.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", post.head);
    assert!(post.head.contains("authorization: Bearer s3cret"), "{}", post.head);
    assert_eq!(
        said(&posts).unwrap(),
        ["firing backend-down web/web-02", "firing capacity-low web"]
    );
    let alert = &post.json["alerts"][0];
    assert_eq!(alert["id"], "backend-down:web/web-02");
    assert_eq!((&alert["service"], &alert["backend"]), (&"web".into(), &NAME.into()));
    assert_eq!((&alert["severity"], &alert["repeated"]), (&"warning".into(), &false.into()));
    assert!(alert["message"].as_str().unwrap().contains("connection refused"), "{alert}");
    assert!(alert["next"].as_str().unwrap().starts_with("curl -v "), "{alert}");
    let capacity = post.json["alerts"][1]["message"].as_str().unwrap();
    assert!(capacity.starts_with("serves with 1 of 2 backends"), "{capacity}");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    assert!(alert["since_ms"].as_u64().unwrap() <= now);
    assert_eq!(post.json["status"], "firing");

    // Who looks sees the same, and who knows; a secret is nowhere.
    let all = scene.wait_until_told(2);
    let shown = format!("http://{}/…", scene.webhook.address());
    assert!(notified(&all).contains(&Value::from(shown)), "{all:#}");
    assert_eq!(all["alerts"][0]["kind"], "backend-down");
    let warnings = scene.balancer.status().unwrap()["warnings"].clone();
    assert_eq!(warnings[0]["kind"], "backend-down");
    assert!(!format!("{all}{}", scene.balancer.log()).contains("s3cret"));

    // Neither time nor a restart repeats it.
    sleep(Duration::from_secs(3));
    let Scene { lab, webhook, balancer } = scene;
    balancer.stop().unwrap();
    let balancer = Balancer::run(&lab, &Balancer::binary().unwrap()).unwrap();
    balancer.wait_for_health("web", NAME, "down", LIMIT).unwrap();
    sleep(Duration::from_secs(3));
    assert_eq!(webhook.posts().len(), 1, "{:#?}", webhook.posts());

    let scene = Scene { lab, webhook, balancer };
    scene.mend();
    // For half a minute after a start nothing of before is called over, unless it was seen again.
    let posts = scene.webhook.wait_for(2, LIMIT).unwrap();
    assert_eq!(
        said(&posts[1..]).unwrap(),
        ["resolved backend-down web/web-02", "resolved capacity-low web"]
    );
    assert_eq!(posts[1].json["status"], "resolved");
    assert!(posts[1].json["alerts"][0]["lasted_ms"].as_u64().unwrap() >= 6_000);
    sleep(Duration::from_secs(2));
    assert_eq!(scene.webhook.posts().len(), 2);
    let program = fs::read_to_string(scene.lab.path("program")).unwrap();
    let statuses: Vec<Value> =
        program.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(statuses.len(), 2, "{program}");
    assert_eq!(statuses[0]["alerts"], posts[0].json["alerts"]);
    scene.balancer.stop().unwrap();
}

#[test]
fn a_dead_target_delays_nobody() {
    let mut dead = None;
    let scene = Scene::start(|lab, webhook| {
        // Its kernel accepts, and nobody answers.
        let silent = lab.balancer().enter(|| TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
        let address = silent.local_addr().unwrap();
        dead = Some(silent);
        let silent = format!("\n[[alert]]\nwebhook = \"http://{address}/\"\ntimeout = \"20s\"\n");
        let stuck = "[[alert]]\nexec = [\"/bin/sleep\", \"1000\"]\ntimeout = \"1s\"\nretries = 0\n";
        silent + stuck + &to_webhook(webhook)
    });
    scene.kill();
    let soon = QUICK_DETECTION + Duration::from_secs(3);
    scene.balancer.wait_for_health("web", NAME, "down", soon).unwrap();
    scene.webhook.wait_for(1, LIMIT).unwrap();
    sleep(Duration::from_secs(2));
    scene.mend();
    scene.balancer.wait_for_health("web", NAME, "up", soon).unwrap();
    let posts = scene.webhook.wait_for(2, LIMIT).unwrap();
    assert_eq!(posts[1].json["status"], "resolved");
    let all = scene.alerts();
    let stuck = all["targets"].as_array().unwrap().iter().find(|t| t["name"] == "exec /bin/sleep");
    let stuck = stuck.unwrap();
    assert_eq!(stuck["last_error"], "no answer from /bin/sleep within 1s", "{all:#}");
    assert!(stuck["failed"].as_u64().unwrap() >= 1 && stuck["sent"] == 0, "{all:#}");
    drop(dead);
    scene.balancer.stop().unwrap();
}

#[test]
fn a_target_that_was_away_gets_what_holds_then() {
    let scene = Scene::start(|_, webhook| to_webhook(webhook));
    scene.webhook.answer(503);
    scene.kill();
    let posts = scene.webhook.wait_for(2, LIMIT).unwrap();
    assert_eq!(posts[0].json["alerts"][0]["id"], posts[1].json["alerts"][0]["id"]);
    let all = scene.alerts();
    let error = all["targets"][0]["last_error"].as_str().unwrap();
    assert!(error.ends_with("/… answered HTTP 503"), "{all:#}");
    assert!(notified(&all).is_empty(), "{all:#}");
    scene.webhook.answer(200);
    let all = scene.wait_until_told(1);
    assert_eq!(
        (&all["targets"][0]["sent"], &all["targets"][0]["last_error"]),
        (&1.into(), &Value::Null)
    );
    scene.balancer.stop().unwrap();
}

#[test]
fn targets_can_be_tested_and_changed() {
    let scene = Scene::start(|_, webhook| to_webhook(webhook));
    let test = || {
        let output = scene.balancer.cli(&["alerts", "test"]).unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let (code, text) = test();
    assert!(code == Some(0) && text.starts_with("ok http://127.0.0.1:"), "{text}");
    let post = scene.webhook.posts().remove(0);
    assert_eq!(
        (&post.json["status"], &post.json["alerts"]),
        (&"test".into(), &Value::Array(vec![]))
    );

    scene.webhook.answer(500);
    let (code, text) = test();
    assert!(code == Some(1) && text.contains("answered HTTP 500"), "{text}");

    // Another configuration, another target: without a restart.
    scene.webhook.answer(204);
    let service = ServiceConfig::quick(Mode::Nat, Family::V4);
    let path = scene.lab.path("next.toml");
    let next = "template = '{\"text\": \"{{status}}: {{message}}\"}'\nmin_severity = \"info\"\n";
    let alerts = to_webhook(&scene.webhook) + next;
    fs::write(&path, scene.lab.config(&[service]) + &alerts).unwrap();
    scene.balancer.json(&["apply", &path.display().to_string()]).unwrap();
    scene
        .balancer
        .json(&["backend", "drain", "web/web-01", "--force", "--reason", "a \"test\""])
        .unwrap();
    let posts = scene.webhook.wait_for(3, LIMIT).unwrap();
    let text = posts[2].json["text"].as_str().unwrap();
    assert!(text.starts_with("firing: "), "{text}");
    assert!(text.contains("web/web-01 is drained for") && text.contains("a \"test\""), "{text}");
    scene.balancer.stop().unwrap();
}
