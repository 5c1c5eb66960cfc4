//! The real `lb` against a real socket: what it prints, and the exit code it promises.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use lb_userspace::api::{bind, serve};
use lb_userspace::config::{Config, apply_backend_change, diff, parse, to_toml};
use lb_userspace::control::handle::{BlockChange, Handle, Request};
use lb_userspace::report::{AlertTest, Alerts, Block, Changed, Counters, Error, ErrorKind, Status};
use tempfile::TempDir;

const SAMPLE: &str = r#"[node]
interfaces = ["eth0"]
[[service]]
name = "web"
mode = "nat"
listen = ["192.0.2.10:80/tcp"]
backends = [{ name = "web-01", address = "10.0.0.11" }, { name = "web-02", address = "10.0.0.12" }]
"#;

/// One service with all that a service can have.
const RICH: &str = r#"[node]
interfaces = ["eth0"]
[[service]]
name = "h3"
mode = "gue"
listen = ["192.0.2.0/24:443/udp"]
quic = { config_id = 0, server_id_length = 2 }
allow = ["10.0.0.0/8", "192.0.2.7"]
rate_limit = { per_second = 100 }
backends = [
  { name = "a", address = "10.0.0.11", server_id = "0a01" },
  { name = "b", address = "fd00::12", server_id = "0a02" },
]
"#;

/// A directory with a daemon's socket in it, whose loop only keeps a configuration.
struct Lab {
    directory: TempDir,
}

impl Lab {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("lb.sock");
        let (ready, started) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = bind(&socket).unwrap();
                let (handle, mut requests) = Handle::new();
                ready.send(()).unwrap();
                tokio::spawn(serve(listener, handle, std::future::pending()));
                let mut config = parse(SAMPLE, "lb.toml").unwrap();
                let mut revision = 1;
                while let Some(request) = requests.recv().await {
                    answer(&mut config, &mut revision, request);
                }
            });
        });
        started.recv().unwrap();
        Self { directory }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command
            .args(line.split_whitespace().map(|word| word.replace("@", &self.path())))
            .env("HOLDFAST_SOCKET", self.directory.path().join("lb.sock"))
            .stdin(Stdio::null());
        command
    }

    fn path(&self) -> String {
        self.directory.path().display().to_string()
    }

    /// Runs `lb`; `@` in the line is the lab's directory.
    fn lb(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs `lb` and expects an exit code and a part of what it says, on stdout if that is 0.
    fn check(&self, line: &str, code: i32, part: &str) {
        let output = self.lb(line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "lb {line}\n{out}{err}");
        let said = if code == 0 { &out } else { &err };
        assert!(said.contains(part), "lb {line}: no '{part}' in:\n{said}");
        assert!(!err.contains("panicked"), "lb {line}\n{err}");
    }
}

fn change(config: &mut Config, revision: &mut u64, new: Config) -> Changed {
    let changes = diff(config, &new);
    *config = new;
    *revision += u64::from(!changes.is_empty());
    Changed { revision: *revision, changes, warnings: vec![] }
}

fn answer(config: &mut Config, revision: &mut u64, request: Request) {
    match request {
        Request::Status(reply) => {
            let _ = reply.send(Ok(Status {
                version: "0.1.0".into(),
                revision: *revision,
                uptime_ms: 0,
                interfaces: vec![],
                features: vec![],
                warnings: vec![],
                services: vec![],
                counters: Counters::default(),
            }));
        }
        Request::Config(reply) => {
            let _ = reply.send(Ok(config.clone()));
        }
        Request::Apply { config: new, reply, .. } => {
            let _ = reply.send(Ok(change(config, revision, *new)));
        }
        Request::Reload { reply, .. } => {
            let _ = reply.send(Err(Error::new(ErrorKind::Internal, "no file", "name one")));
        }
        Request::Backend { service, change: asked, reply, .. } => {
            let new = apply_backend_change(config, &service, &asked);
            let _ = reply.send(new.map(|new| change(config, revision, new)));
        }
        Request::Freeze { service, lasts, reply, .. } => {
            let what = format!("{service:?} for {lasts:?}");
            let _ = reply.send(Ok(Changed {
                revision: *revision,
                changes: vec![what],
                warnings: vec![],
            }));
        }
        Request::Thaw { service, reply, .. } => {
            let what = format!("{service:?} thawed");
            let _ = reply.send(Ok(Changed {
                revision: *revision,
                changes: vec![what],
                warnings: vec![],
            }));
        }
        Request::Blocks(reply) => {
            let block = Block {
                prefix: "198.51.100.0/24".parse().unwrap(),
                reason: Some("scans".into()),
                actor: "uid 0".into(),
                since_ms: 0,
                until_ms: None,
            };
            let _ = reply.send(Ok(vec![block]));
        }
        Request::Block { change, reply, .. } => {
            let _ = reply.send(match change {
                BlockChange::Add { local: Some(_), prefix, .. } if prefix.length < 8 => {
                    Err(Error::new(ErrorKind::Refused, "holds 10.0.0.11", "say --force"))
                }
                change => Ok(Changed {
                    revision: *revision,
                    changes: vec![format!("{change:?}")],
                    warnings: vec![],
                }),
            });
        }
        Request::Alerts(reply) => {
            let _ = reply.send(Ok(Alerts::default()));
        }
        Request::AlertTest(reply) => {
            let test = |target: &str, error: Option<&str>| AlertTest {
                target: target.into(),
                error: error.map(Into::into),
                took_ms: 7,
            };
            let tests = [test("https://h/…", None), test("exec /bin/page", Some("exit 1"))];
            let _ = reply.send(Ok(tests.to_vec()));
        }
        Request::Explain { reply, .. } => {
            let _ = reply.send(Err(Error::new(ErrorKind::Internal, "no tables yet", "wait")));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_works() {
    let lab = Lab::start();
    lab.file("lb.toml", SAMPLE);
    lab.file("rich.toml", RICH);
    lab.file("more.toml", &SAMPLE.replace("10.0.0.12\"", "10.0.0.22\", weight = 3"));
    for (line, part) in [
        ("--help", "Exit codes:"),
        ("version", "lb 0.1.0"),
        ("version -o json", "\"version\": \"0.1.0\""),
        ("check @/lb.toml", "is valid: 1 service, 1 frontend, 2 backends"),
        (
            "check @/rich.toml",
            "is valid: 1 service, 1 frontend, 2 backends, 2 allowed sources, 2 server ids, 1 rate limit",
        ),
        ("check @/lb.toml -o json", "\"valid\": true"),
        ("status", "ok nothing to balance"),
        ("service list", "SERVICE  MODE"),
        ("backend list", "BACKEND"),
        ("backend list -o json", "[]"),
        ("apply @/more.toml --dry-run", "web/web-02: address 10.0.0.12 → 10.0.0.22"),
        ("config", "address = \"10.0.0.12\", weight = 1"),
        ("apply @/more.toml", "web/web-02: weight 1 → 3\nrevision 2"),
        ("apply @/more.toml", "nothing to change; revision 2"),
        (
            "backend add web/web-03 --address 10.0.0.13 --port 8080",
            "web/web-03: added at 10.0.0.13",
        ),
        ("backend weight web/web-03 7", "web/web-03: weight 1 → 7"),
        ("backend drain web/web-03 --reason because", "nothing to change"),
        ("backend ready web/web-03 -o json", "\"revision\": 4"),
        ("backend remove web/web-03", "web/web-03: removed"),
        ("alerts", "ok nothing is wrong"),
        ("alerts -o json", "\"targets\": []"),
        ("block list", "198.51.100.0/24  scans   uid 0"),
        ("block list -o json", "\"until_ms\": null"),
        ("block add 203.0.113.7 --reason flood --for 12h", "Some(43200s)"),
        ("block add 0.0.0.0/0 --force", "local: None"),
        ("block remove 203.0.113.7", "Remove { prefix: "),
        ("config -o json", "\"interfaces\""),
        ("--socket @/lb.sock status", "ok"),
    ] {
        lab.check(line, 0, part);
    }
    let printed = text(&lab.lb("config").stdout);
    let expect = parse(&std::fs::read_to_string(lab.file("out.toml", &printed)).unwrap(), "out");
    assert_eq!(to_toml(&expect.unwrap()), printed, "what is printed can be applied");
}

#[test]
fn what_is_refused_says_why_and_changes_nothing() {
    let lab = Lab::start();
    lab.file("bad.toml", &SAMPLE.replace("10.0.0.12", "10.0.0.11").replace("nat", "tunnel"));
    lab.file("node.toml", &SAMPLE.replace("eth0", "eth1").replace("nat", "dsr"));
    lab.file("syntax.toml", "[node\n");
    lab.file("latin1.toml", "");
    std::fs::write(lab.directory.path().join("latin1.toml"), b"# caf\xe9\n").unwrap();
    let before = text(&lab.lb("config").stdout);
    let add = "backend add web/web-09 --address";
    let run = "run --interface eth0 --listen 192.0.2.10:80/tcp --mode nat --backend";
    for (line, code, part) in [
        // The command line.
        ("", 2, "Usage: lb"),
        ("stauts", 2, "a similar subcommand exists: 'status'"),
        ("status --wach", 2, "'--watch'"),
        ("-o yaml status", 2, "[possible values: text, json]"),
        ("backend drain web-01", 2, "write SERVICE/NAME, such as web/web-01"),
        ("backend drain web/../../etc", 2, "can't be a name"),
        ("backend weight web/web-01 0", 2, "use `lb backend drain`"),
        ("backend weight web/web-01 1001", 2, "a weight is 1 to 1000"),
        ("backend weight web/web-01 -1", 2, "'-1'"),
        ("backend weight web/web-01", 2, "required"),
        (&format!("{add} 10.0.0.256"), 2, "10.0.0.256"),
        (&format!("{add} web_01.example.org"), 2, "RFC 1123"),
        (&format!("{add} 10.0.0.19 --port 0"), 2, "1..=65535"),
        (&format!("{add} 10.0.0.19 --server-id 0x1"), 2, "is not a server id"),
        ("explain icmp 198.51.100.7:1 192.0.2.10:80", 2, "[possible values: tcp, udp]"),
        ("explain tcp 198.51.100.7 192.0.2.10:80", 2, "invalid socket address"),
        ("explain tcp 198.51.100.7:1 [2001:db8::1]:80", 2, "different families"),
        ("block add 203.0.113.7/24", 2, "did you mean 203.0.113.0/24?"),
        ("block add example.org", 2, "names are not resolved"),
        ("block add 203.0.113.7 --for 0s", 2, "it would end at once"),
        ("block add 203.0.113.7 --for 10", 2, "ms, s, m or h"),
        ("block add 0.0.0.0/0", 1, "say --force"),
        ("block remove", 2, "required"),
        ("alerts test", 1, ""),
        ("alerts tset", 2, "similar subcommand exists: 'test'"),
        // Starting.
        ("run -c @/none.toml", 2, "can't read"),
        ("run -c @/bad.toml", 2, "'tunnel' is not a forwarding mode"),
        ("run -c @", 2, "can't read"),
        ("run -c @/bad.toml --interface eth0", 2, "cannot be used with"),
        ("run --interface eth0", 2, "--listen"),
        ("run --listen 192.0.2.10:80/tcp", 2, "--interface"),
        (&format!("{run} fd00::1"), 2, "make two services"),
        (&format!("{run} 10.0.0.1:99999"), 2, "write ADDRESS or ADDRESS:PORT"),
        (&format!("{run} 10.0.0.1 --backend 10.0.0.1"), 2, "in this service twice"),
        (&format!("{run} 10.0.0.1 --health icmp"), 2, "write tcp, none, or http:"),
        (&format!("{run} 10.0.0.1 --service Web"), 2, "can't be a name"),
        (
            "run --interface eth0 --listen 0.0.0.0:80/tcp --mode nat --backend 10.0.0.1",
            2,
            "unspecified",
        ),
        (
            "run --interface eth0 --listen 192.0.2.10:80 --mode nat --backend 10.0.0.1",
            2,
            "no protocol",
        ),
        (
            "run --interface eth0 --listen 192.0.2.10:80/tcp --mode vxlan --backend 10.0.0.1",
            2,
            "[possible values: nat, dsr, ipip, gue]",
        ),
        (
            "run --interface eth0 --listen 192.0.2.1/24:80/tcp --mode nat --backend 10.0.0.1",
            2,
            "did you mean 192.0.2.0/24?",
        ),
        (
            "run --interface a/b --listen 192.0.2.10:80/tcp --mode nat --backend 10.0.0.1",
            2,
            "`ip link`",
        ),
        // Files.
        ("check @/none.toml", 2, "No such file"),
        ("check @/bad.toml", 2, "bad.toml:5:8"),
        ("check @/syntax.toml", 2, "syntax.toml:1:6"),
        ("check @/latin1.toml", 2, "not UTF-8"),
        ("check @", 2, "can't read"),
        ("apply @/bad.toml", 2, "bad.toml: 2 errors"),
        ("apply @/bad.toml --dry-run", 2, "10.0.0.11 is in this service twice"),
        // The daemon.
        ("backend drain web/web-1", 4, "did you mean web/web-01?"),
        ("backend ready api/x", 4, "there is no service 'api'"),
        ("backend list api", 4, "there is no service 'api'"),
        ("backend remove web/nope", 4, "its backends: web-01 or web-02"),
        (&format!("{add} 10.0.0.11"), 1, "twice"),
        (&format!("{add} 192.0.2.10"), 1, "is a VIP"),
        (&format!("{add} 10.0.0.19 --server-id 0a"), 2, "this service has no `quic`"),
        (&format!("{add} fd00::9"), 2, "IPv6 backend can't serve"),
        (&format!("{add} 127.0.0.1"), 2, "loopback"),
        ("backend add web/web-01 --address 10.0.0.19", 1, "two backends named"),
        ("explain tcp 198.51.100.7:40000 192.0.2.10:80", 1, "no tables yet"),
        ("reload", 1, "no file"),
        ("apply @/node.toml --dry-run", 1, "[node] is fixed while the daemon runs"),
        ("apply @/node.toml --dry-run", 1, "node: interfaces eth0 → eth1"),
        ("status --socket @/none.sock", 3, "is `lb run` running?"),
        ("status --socket @/bad.toml", 3, "is `lb run` running?"),
    ] {
        lab.check(line, code, part);
    }
    assert_eq!(text(&lab.lb("config").stdout), before, "unchanged");
    lab.check("backend remove web/web-02", 0, "removed");
    lab.check("backend remove web/web-01", 1, "is the last backend of web");
}

#[test]
fn a_backend_of_a_quic_service_is_added_with_its_id() {
    let lab = Lab::start();
    lab.file("rich.toml", RICH);
    let expect = "h3/c: added at 10.0.0.13, weight 1, server id 0a03";
    for (line, code, part) in [
        ("apply @/rich.toml", 0, "service h3: added"),
        ("backend add h3/c --address 10.0.0.13", 2, "add server_id = \"0a0a\""),
        ("backend add h3/c --address 10.0.0.13 --server-id 0a02", 1, "have the server id 0a02"),
        ("backend add h3/c --address 10.0.0.13 --server-id 0a0304", 2, "has 3 bytes"),
        ("backend add h3/c --address 10.0.0.13 --server-id 0A03", 0, expect),
        ("config", 0, "weight = 1, server_id = \"0a03\""),
    ] {
        lab.check(line, code, part);
    }
}

#[test]
fn errors_are_json_when_asked() {
    let lab = Lab::start();
    lab.file("bad.toml", &SAMPLE.replace("nat", "tunnel"));
    for (line, code, kind) in [
        ("-o json stauts", 2, ErrorKind::Invalid),
        ("run -o json -c @/bad.toml", 2, ErrorKind::Invalid),
        ("apply -o json @/bad.toml", 2, ErrorKind::Invalid),
        ("backend ready api/x -o json", 4, ErrorKind::NotFound),
        ("backend add web/web-01 --address 10.0.0.19 -o json", 1, ErrorKind::Conflict),
        ("status -ojson --socket @/none.sock", 3, ErrorKind::Unreachable),
    ] {
        let output = lab.lb(line);
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert!(output.stdout.is_empty(), "{line}");
        let error: Error = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error.kind, kind, "{line}");
    }
    let output = lab.lb("check -o json @/bad.toml");
    assert_eq!(output.status.code(), Some(2));
    let checked: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let error = &checked["errors"][0];
    assert_eq!((error["line"].as_u64(), error["column"].as_u64()), (Some(5), Some(8)));
    assert_eq!(error["text"], "\"tunnel\"");
}

#[test]
fn colour_only_where_it_is_wanted() {
    let lab = Lab::start();
    for (line, coloured) in
        [("status", false), ("--color always status", true), ("--color never status", false)]
    {
        assert_eq!(text(&lab.lb(line).stdout).contains('\u{1b}'), coloured, "{line}");
    }
    let output = lab.command("--color auto status").env("NO_COLOR", "1").output().unwrap();
    assert!(!text(&output.stdout).contains('\u{1b}'));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let lab = Lab::start();
    let mut child = lab.command("status").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn other_users_may_look_at_most() {
    let lab = Lab::start();
    // The binary's own directory may be closed to others.
    let binary = lab.directory.path().join("lb");
    // By another process: a copy still open here, in what another test forks, could not be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_lb")).arg(&binary).status().unwrap();
    assert!(copied.success());
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(lab.directory.path(), 0o755);
    open(&binary, 0o755);
    let nobody = |line: &str| {
        let mut command = Command::new(&binary);
        command.args(line.split(' ')).env("HOLDFAST_SOCKET", lab.directory.path().join("lb.sock"));
        let output = command.uid(65_534).gid(65_534).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    if !std::fs::metadata("/proc/self")
        .is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
    {
        return;
    }
    let (code, said) = nobody("status");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("permission denied") && said.contains("use sudo"), "{said}");

    open(&lab.directory.path().join("lb.sock"), 0o666);
    assert_eq!(nobody("status").0, Some(0));
    let (code, said) = nobody("backend remove web/web-01");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("uid 65534 may look but not change anything"), "{said}");
}

#[test]
fn watching_goes_on_until_stopped() {
    let lab = Lab::start();
    let mut child = lab.command("status --watch -o json").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.take(2) {
        let status: Status = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(status.revision, 1);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
