//! The command line against the running daemon: what it prints, its exit codes, and that what is
//! refused changes nothing.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::process::Output;
use std::time::Duration;

use lb_tests::{Balancer, Family, Lab, Mode, ServiceConfig, Topology};
use serde_json::Value;

struct Scene {
    lab: Lab,
    balancer: Balancer,
}

impl Scene {
    fn start() -> Self {
        let lab = Lab::build(Topology::new(Mode::Nat, 2)).unwrap();
        let balancer =
            Balancer::serving(&lab, &[ServiceConfig::quick(Mode::Nat, Family::V4)]).unwrap();
        Self { lab, balancer }
    }

    /// Writes the running configuration with a change into a file of the lab.
    fn file(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.lab.path("lb.toml")).unwrap();
        assert!(text.contains(from), "no '{from}' in {text}");
        fs::write(self.lab.path(name), text.replace(from, to)).unwrap();
    }

    /// Runs `lb`; `@` in the line is the lab's directory.
    fn lb(&self, line: &str) -> Output {
        let directory = self.lab.directory().display().to_string();
        let words: Vec<_> = line.split(' ').map(|word| word.replace('@', &directory)).collect();
        if line.contains("--socket") {
            let mut lb = self.lab.balancer().command(Balancer::binary().unwrap());
            return lb.args(words).output().unwrap();
        }
        self.balancer.cli(&words).unwrap()
    }

    /// Expects an exit code and a part of what is said: on stdout if that is 0, else on stderr.
    fn check(&self, line: &str, code: i32, part: &str) {
        let output = self.lb(line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "lb {line}\n{out}{err}");
        let said = if code == 0 { &out } else { &err };
        // Texts are wrapped where the terminal ends.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(said).contains(part), "lb {line}: no '{part}' in:\n{said}");
        assert!(!err.contains("panicked"), "lb {line}\n{err}");
    }

    fn config(&self) -> String {
        text(&self.lb("config -o json").stdout)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_works_is_said_in_text() {
    let scene = Scene::start();
    scene.file("more.toml", "10.77.0.12\", weight = 1", "10.77.0.12\", weight = 3");
    for (line, part) in [
        ("version", "lb 0.1.0"),
        ("check @/lb.toml", "is valid: 1 service, 1 frontend, 2 backends"),
        ("status", "ok nothing is wrong; 2 of 2 backends are serving"),
        ("status", "on eth0 (native XDP), revision 1"),
        ("service list", "web nat 192.0.2.10:80/tcp 2/2"),
        ("backend list", "web/web-01 10.77.0.11 up"),
        ("backend list web", "web/web-02 10.77.0.12 up"),
        ("config", "listen = [\"192.0.2.10:80/tcp\"]"),
        (
            "apply @/more.toml --dry-run",
            "web/web-02: weight 1 → 3 not applied; still at revision 1",
        ),
        ("apply @/more.toml", "web/web-02: weight 1 → 3 revision 2"),
        ("apply @/more.toml", "nothing to change; revision 2"),
        ("backend weight web/web-01 4", "web/web-01: weight 1 → 4 revision 3"),
        ("backend weight web/web-01 4", "nothing to change; revision 3"),
        (
            "backend add web/b --address 10.77.0.11 --port 8080",
            "web/b: added at 10.77.0.11, weight 1",
        ),
        ("backend drain web/b --reason moving", "revision 4"),
        ("backend drain web/b", "nothing to change"),
        ("status", "web/b is drained for 0s by uid 0 (\"moving\")"),
        ("backend ready web/b", "web/b: ready"),
        ("backend ready web/b", "nothing to change"),
        ("backend maint web/b --for 30m --reason disk", "web/b: in maintenance, to end in 30m"),
        ("status", "web/b is in maintenance for 0s by uid 0 (\"disk\"), to end in "),
        ("backend drain web/b", "web/b: draining, to end in "),
        ("status", "web/b is drained for 0s by uid 0 (\"disk\"), to end in "),
        ("backend ready web/b", "web/b: ready"),
        ("health freeze web --for 30m --reason network", "service web: frozen for 30m"),
        ("status", "web is frozen by uid 0 (\"network\"), and thaws in 29m"),
        ("health thaw", "service web: thawed"),
        ("health thaw", "nothing to change"),
        ("backend remove web/b", "web/b: removed revision 5"),
        ("reload", "nothing to change; revision 5"),
        ("explain tcp 198.51.100.7:40000 192.0.2.10:80", "goes to web/web-0"),
        ("explain tcp 198.51.100.7:40000 192.0.2.10:80", "of 16381 belongs to web/web-0"),
        (
            "explain tcp 198.51.100.7:40000 192.0.2.10:80",
            "an existing flow gets drop-nat-no-connection",
        ),
        ("explain tcp 198.51.100.7:40000 192.0.2.10:81", "goes to no backend: pass-no-service"),
        ("explain udp 198.51.100.7:40000 192.0.2.10:80", "is a VIP, but no service listens on"),
        ("explain tcp 198.51.100.7:40000 192.0.2.11:80", "goes to no backend: pass-not-vip"),
    ] {
        scene.check(line, 0, part);
    }
    // What is printed can be applied.
    fs::write(scene.lab.path("printed.toml"), scene.lb("config").stdout).unwrap();
    scene.check("apply @/printed.toml", 0, "nothing to change; revision 5");
    scene.balancer.stop().unwrap();
}

#[test]
fn what_works_is_said_in_json() {
    let scene = Scene::start();
    let mut more = fs::read_to_string(scene.lab.path("lb.toml")).unwrap();
    more.push_str(
        "\n[[service]]\nname = \"api\"\nmode = \"nat\"\nlisten = [\"192.0.2.10:81/tcp\"]\n",
    );
    more.push_str("backends = [{ name = \"a\", address = \"10.77.0.11\", port = 8080 }]\n");
    fs::write(scene.lab.path("more.toml"), more).unwrap();
    let pointer = |line: &str, pointer: &str| {
        let output = scene.lb(&format!("{line} -o json"));
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{line}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = json.pointer(pointer).cloned();
        found.unwrap_or_else(|| panic!("{line}: no {pointer} in {json:#}"))
    };
    for (line, at, expect) in [
        ("version", "/version", "\"0.1.0\""),
        ("check @/lb.toml", "/valid", "true"),
        ("check @/more.toml", "/warnings/1", "\"api: a is its only backend; nothing takes over\""),
        ("status", "/interfaces/0/xdp", "\"native\""),
        ("status", "/services/0/backends_serving", "2"),
        ("service list", "/0/name", "\"web\""),
        ("service list", "/0/mode", "\"nat\""),
        ("backend list web", "/1/name", "\"web-02\""),
        ("backend list", "/0/service", "\"web\""),
        ("config", "/services/0/backends/0/weight", "1"),
        ("apply @/more.toml --dry-run", "/changes/0", "\"service api: added\""),
        ("apply @/more.toml", "/revision", "2"),
        ("backend weight web/web-01 4", "/changes/0", "\"web/web-01: weight 1 → 4\""),
        ("backend add web/b --address 10.77.0.11 --port 8080", "/revision", "4"),
        ("backend drain web/b --reason moving", "/revision", "4"),
        ("backend list web", "/2/admin/reason", "\"moving\""),
        ("backend ready web/b", "/changes/0", "\"web/b: ready\""),
        ("health freeze", "/changes/0", "\"all services: frozen for 1h\""),
        ("status", "/services/0/frozen/actor", "\"uid 0\""),
        ("health thaw web", "/warnings/0", "\"web is frozen still, as all services are\""),
        ("health thaw", "/changes/0", "\"all services: thawed\""),
        ("backend remove web/b", "/revision", "5"),
        ("reload", "/revision", "5"),
        (
            "backend remove web/web-01 --force",
            "/warnings/0",
            "\"web: web-02 is its only backend; nothing takes over\"",
        ),
        ("explain tcp 198.51.100.7:40000 192.0.2.10:80", "/backend", "\"web-02\""),
        ("explain tcp 198.51.100.7:40000 192.0.2.10:82", "/verdict", "\"pass-no-service\""),
    ] {
        assert_eq!(pointer(line, at).to_string(), expect, "{line}");
    }
    scene.balancer.stop().unwrap();
}

#[test]
fn every_bad_input_is_refused_and_changes_nothing() {
    let scene = Scene::start();
    for (name, from, to) in [
        ("weight.toml", "weight = 1", "weight = 1001"),
        ("mode.toml", "mode = \"nat\"", "mode = \"tunnel\""),
        ("key.toml", "weight = 1", "wieght = 1"),
        ("family.toml", "10.77.0.12", "fd77::12"),
        ("vip.toml", "10.77.0.12", "192.0.2.10"),
        ("twice.toml", "10.77.0.12", "10.77.0.11"),
        ("name.toml", "web-02", "web-01"),
        ("port.toml", "192.0.2.10:80/tcp", "192.0.2.10:0/tcp"),
        ("listen.toml", "192.0.2.10:80/tcp", "192.0.2.10:80"),
        ("interval.toml", "300ms", "300"),
        ("idle.toml", "idle_timeout = \"3s\"", "idle_timeout = \"-3s\""),
        ("node.toml", "\"eth0\"", "\"lo\""),
        ("limits.toml", "[node]", "[node]\nlimits = { backends = 0 }"),
    ] {
        scene.file(name, from, to);
    }
    fs::write(scene.lab.path("empty.toml"), "").unwrap();
    fs::write(scene.lab.path("binary.toml"), [0xff, 0xfe, 0, 1]).unwrap();
    let many = format!(
        "[[service]]\nname = \"many\"\nmode = \"nat\"\nlisten = [\"192.0.2.10:90/tcp\"]\nbackends = [\n{}]\n",
        (0..9000u32)
            .map(|n| format!(
                "{{ name = \"b{n}\", address = \"10.99.{}.{}\" }},\n",
                n / 200,
                n % 200 + 1
            ))
            .collect::<String>()
    );
    let good = fs::read_to_string(scene.lab.path("lb.toml")).unwrap();
    fs::write(scene.lab.path("many.toml"), good + &many).unwrap();

    let before = scene.config();
    let add = "backend add web/b --address";
    let long = "x".repeat(201);
    for (line, code, part) in [
        // 1: refused by the daemon.
        ("apply @/node.toml --dry-run", 1, "[node] is fixed while the daemon runs"),
        ("apply @/node.toml", 1, "[node] is fixed while the daemon runs"),
        ("apply @/many.toml", 2, "raise it: [node] with limits = { servers = 16384 }"),
        (&format!("{add} 10.77.0.11"), 1, "twice"),
        (&format!("{add} 192.0.2.10"), 1, "is a VIP"),
        ("backend add web/web-01 --address 10.77.0.19", 1, "two backends named"),
        ("backend remove web/web-02", 1, "this leaves 1 of 2 backends of web: the next failure"),
        ("backend drain web/web-02", 1, "use --force to do it anyway"),
        ("backend maint web/web-02", 1, "use --force to do it anyway"),
        // 2: never got that far, or is invalid.
        ("", 2, "Usage: lb"),
        ("stauts", 2, "'status'"),
        ("backend weight web/web-01 0", 2, "use `lb backend drain`"),
        ("backend weight web/web-01 70000", 2, "a weight is 1 to 1000"),
        ("backend weight web/web-01 many", 2, "a weight is 1 to 1000"),
        ("backend drain web-01", 2, "write SERVICE/NAME"),
        ("backend drain web/..", 2, "can't be a name"),
        (&format!("backend drain web/web-01 --reason {long}"), 2, "at most 200 characters"),
        ("backend drain web/web-01 --for 0s", 2, "it would end at once"),
        ("backend maint web/web-01 --for soon", 2, "write a whole number"),
        ("health freeze web --for 0s", 2, "it would end at once"),
        (&format!("{add} example_org"), 2, "neither an address nor a host name"),
        (&format!("{add} example.org --family v6"), 2, "write \"ipv4\" or \"ipv6\""),
        (&format!("{add} 10.77.0.19 --family ipv4"), 2, "of one family alone"),
        (&format!("{add} example.org --family ipv6"), 2, "IPv6 backend can't serve"),
        (&format!("{add} fd77::19"), 2, "IPv6 backend can't serve"),
        (&format!("{add} 0.0.0.0"), 2, "unspecified"),
        (&format!("{add} 127.0.0.1"), 2, "loopback"),
        (&format!("{add} 224.0.0.1"), 2, "multicast"),
        (&format!("{add} 10.77.0.19 --port 65536"), 2, "65536"),
        (&format!("{add} 10.77.0.19 --weight 0"), 2, "use `lb backend drain`"),
        ("explain icmp 198.51.100.7:1 192.0.2.10:80", 2, "tcp, udp"),
        ("explain tcp 198.51.100.7 192.0.2.10:80", 2, "invalid socket address"),
        ("explain tcp [fd77::1]:1 192.0.2.10:80", 2, "different families"),
        ("apply @/none.toml", 2, "can't read"),
        ("apply @", 2, "can't read"),
        ("apply @/empty.toml", 2, "node"),
        ("apply @/binary.toml", 2, "not UTF-8"),
        ("apply @/weight.toml", 2, "weight.toml:11:"),
        ("apply @/mode.toml", 2, "'tunnel' is not a forwarding mode"),
        ("apply @/key.toml", 2, "did you mean `weight`?"),
        ("apply @/family.toml", 2, "two services"),
        ("apply @/vip.toml", 2, "is a VIP"),
        ("apply @/twice.toml", 2, "twice"),
        ("apply @/name.toml", 2, "web-01"),
        ("apply @/port.toml", 2, "port"),
        ("apply @/listen.toml", 2, "no protocol"),
        ("apply @/interval.toml", 2, "300"),
        ("apply @/idle.toml", 2, "-3s"),
        ("apply @/limits.toml", 2, "backends"),
        ("check @/weight.toml", 2, "weight.toml:11:"),
        // 3: nobody there.
        ("--socket @/none.sock status", 3, "is `lb run` running?"),
        ("--socket @/lb.toml backend drain web/web-01", 3, "is `lb run` running?"),
        // 4: nothing of that name.
        ("backend list api", 4, "there is no service 'api'"),
        ("backend drain api/web-01", 4, "there is no service 'api'"),
        ("health freeze api", 4, "there is no service 'api'"),
        ("health thaw wbe", 4, "did you mean web?"),
        ("backend weight web/web-1 2", 4, "did you mean web/web-01?"),
        ("backend remove web/gone", 4, "its backends: web-01 or web-02"),
        ("backend ready web/gone", 4, "web has no backend 'gone'"),
    ] {
        scene.check(line, code, part);
        assert_eq!(scene.config(), before, "lb {line}");
    }
    // Each refusal left the daemon's own books alone too.
    assert_eq!(scene.balancer.status().unwrap()["revision"], 1);
    assert_eq!(scene.balancer.backend("web", "web-01").unwrap()["admin"]["state"], "ready");

    scene.check("backend remove web/web-02 --force", 0, "removed");
    scene.check("backend remove web/web-01 --force", 1, "is the last backend of web");
    scene.balancer.stop().unwrap();
}

#[test]
fn errors_are_json_on_stderr_when_asked() {
    let scene = Scene::start();
    for (line, code, kind) in [
        ("backend add web/web-01 --address 10.77.0.19", 1, "conflict"),
        ("backend weight web/web-01 0", 2, "invalid"),
        ("apply @/none.toml", 2, "invalid"),
        ("--socket @/none.sock status", 3, "unreachable"),
        ("backend ready web/gone", 4, "not-found"),
    ] {
        let output = scene.lb(&format!("{line} -o json"));
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert_eq!(text(&output.stdout), "", "{line}");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["kind"], kind, "{line}");
        assert!(error["hint"].is_string(), "{line}: {error:#}");
    }
    scene.balancer.stop().unwrap();
}

#[test]
fn a_backend_that_was_added_takes_its_share() {
    let scene = Scene::start();
    // The same server by its other port: two backends of one address.
    scene.check("backend add web/b --address 10.77.0.11 --port 8080 --weight 2", 0, "added");
    scene.balancer.wait_for_health("web", "b", "up", Duration::from_secs(5)).unwrap();
    let expected = scene.balancer.backend("web", "b").unwrap()["expected"].as_f64().unwrap();
    assert!((expected - 0.5).abs() < 0.01, "{expected}");
    let target = std::net::SocketAddr::new(Family::V4.vip(), 80);
    let load = lb_tests::Load::new(target, lb_tests::Limit::Requests(200));
    let report = load.run(scene.lab.client()).unwrap();
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    let flows = scene.balancer.backend("web", "b").unwrap()["new_flows"].as_u64().unwrap();
    assert!((60..=140).contains(&flows), "half of 200 within six standard deviations: {flows}");
    scene.balancer.stop().unwrap();
}
