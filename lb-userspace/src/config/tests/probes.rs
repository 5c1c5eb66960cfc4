//! Every rule of the probes' own keys, and what they are without them.

use super::*;
use crate::config::model::{
    BodyMatch, Dns, Exec, Grpc, Method, Payload, Rcode, RecordType, Statuses, Tls, Udp,
};

fn health(line: &str) -> Health {
    let source = format!("{HEAD}{WEB}health = {{ {line} }}\n{ONE}");
    parse(&source, "lb.toml").unwrap_or_else(|error| panic!("{error}")).services[0].health.clone()
}

fn refused(line: &str, expect: &str) {
    check(&format!("{HEAD}{WEB}health = {{ {line} }}\n{ONE}"), &[expect]);
}

#[test]
fn every_kind_is_read() {
    let https = Http {
        method: Method::Post,
        host: Some("a.example:8443".into()),
        status: Statuses::new(vec![200..=299, 301..=301]).unwrap(),
        body: Some(BodyMatch::Regex("^ok".into())),
        tls: Some(Tls { sni: Some("b.example".into()), ca: None, insecure: true }),
        ..Http::get("/x")
    };
    let dns = |name: &str, record, rcode, answer: Option<&str>| {
        Probe::Dns(Dns { name: name.into(), record, rcode, answer: answer.map(Into::into) })
    };
    let rows = [
        (
            "http = \"/x\", body = \"ok\"",
            Probe::Http(Http { body: Some(BodyMatch::Contains("ok".into())), ..Http::get("/x") }),
        ),
        (
            "https = \"/x\", method = \"POST\", host = \"a.example:8443\", body_regex = \"^ok\", \
             status = \"200-299, 301\", sni = \"b.example\", insecure = true",
            Probe::Http(https),
        ),
        ("grpc = \"\"", Probe::Grpc(Grpc { service: String::new(), tls: None })),
        (
            "grpc = \"a.B\", tls = true",
            Probe::Grpc(Grpc { service: "a.B".into(), tls: Some(Tls::default()) }),
        ),
        ("dns = \"a.example\"", dns("a.example", RecordType::A, Rcode::NoError, None)),
        (
            "dns = \".\", type = \"NS\", answer = \"a.example\"",
            dns(".", RecordType::Ns, Rcode::NoError, Some("a.example")),
        ),
        (
            "dns = \"a\", type = \"AAAA\", rcode = \"NXDOMAIN\"",
            dns("a", RecordType::Aaaa, Rcode::NxDomain, None),
        ),
        ("udp = \"ping\"", Probe::Udp(Udp { payload: Payload::new(b"ping"), expect: None })),
        (
            r"udp = '\xff\\', expect = '\x00'",
            Probe::Udp(Udp { payload: Payload::new(b"\xff\\"), expect: Some(Payload::new(b"\0")) }),
        ),
        ("icmp = true", Probe::Icmp),
        (
            "exec = [\"/bin/x\", \"a b\"]",
            Probe::Exec(Exec { program: "/bin/x".into(), arguments: vec!["a b".into()] }),
        ),
    ];
    for (line, probe) in rows {
        assert_eq!(health(line), Health::new(probe), "{line}");
    }
    let timed = health("icmp = true, jitter = \"0%\", source = \"10.0.0.2\"");
    assert_eq!((timed.jitter, timed.source), (0, Some("10.0.0.2".parse().unwrap())));
}

#[test]
fn keys_belong_to_their_probe() {
    for (line, at, message) in [
        ("sni = \"a\"", "7:18 \"a\"", "for probes by https or grpc | add https"),
        ("tcp = true, type = \"A\"", "7:31 \"A\"", "for probes by dns | add dns"),
        ("http = \"/\", ca = \"/x\"", "7:29 \"/x\"", "for probes by https or grpc | add https"),
        ("grpc = \"\", sni = \"a\"", "7:29 \"a\"", "doesn't use | add tls = true"),
        ("grpc = \"\", tls = false, sni = \"a\"", "7:42 \"a\"", "doesn't use | add tls = true"),
        ("https = \"/\", tls = true", "7:31 true", "for probes by grpc | add grpc"),
        ("icmp = true, expect = \"a\"", "7:34 \"a\"", "for probes by udp | add udp"),
        ("icmp = true, port = 80", "7:32 80", "no port | remove"),
        ("icmp = false", "7:19 false", "chooses no probe | write true"),
        ("grpc = \"\", exec = [\"/x\"]", "7:30 [\"/x\"]", "two ways to probe | keep one"),
        (
            "http = \"/\", body = \"a\", body_regex = \"b\"",
            "7:49 \"b\"",
            "two ways to look | keep one",
        ),
    ] {
        refused(line, &format!("{at} | {message}"));
    }
}

#[test]
fn values_are_checked() {
    let long = format!("udp = \"{}\"", "x".repeat(1201));
    for (line, at, message) in [
        (
            "http = \"/\", method = \"GTE\"",
            "7:33 \"GTE\"",
            "not an HTTP method | did you mean \"GET\"",
        ),
        (
            "http = \"/\", method = \"HEAD\", body = \"x\"",
            "7:48 \"x\"",
            "HEAD have no body | another",
        ),
        ("http = \"/\", body = \"\"", "7:31 \"\"", "1 to 1024 bytes | only a healthy"),
        ("http = \"/\", body_regex = \"(\"", "7:37 \"(\"", "no regular expression | use `body`"),
        ("http = \"/\", status = \"200,600\"", "7:33 \"200,600\"", "600 is no range | 100 to 599"),
        ("https = \"x\"", "7:20 \"x\"", "begin with '/' | \"/healthz\""),
        (
            "https = \"/\", sni = \"a b\"",
            "7:31 \"a b\"",
            "can't be a server name | certificate is for",
        ),
        ("https = \"/\", ca = \"x.pem\"", "7:30 \"x.pem\"", "not an absolute path | such as"),
        (
            "https = \"/\", ca = \"/nowhere\"",
            "7:30 \"/nowhere\"",
            "cannot be read: No such file | PEM",
        ),
        ("https = \"/\", ca = \"/dev\"", "7:30 \"/dev\"", "not a file | PEM"),
        ("https = \"/\", ca = \"/dev/zero\"", "7:30 \"/dev/zero\"", "not a file | PEM"),
        (
            "https = \"/\", ca = \"/etc/passwd\"",
            "7:30 \"/etc/passwd\"",
            "no certificate in it | BEGIN",
        ),
        ("grpc = \"\\u0007\"", "7:19 \"\\u0007\"", "name of a service | full name"),
        ("dns = \"a..b\"", "7:18 \"a..b\"", "not a DNS name | example.org"),
        ("dns = \"\"", "7:18 \"\"", "not a DNS name | example.org"),
        ("dns = \"a\", type = \"AAA\"", "7:30 \"AAA\"", "not a type of DNS records | \"AAAA\""),
        ("dns = \"a\", rcode = \"OK\"", "7:31 \"OK\"", "not a DNS response code | NOERROR"),
        ("dns = \"a\", answer = \"a\"", "7:32 \"a\"", "an IPv4 address | must hold"),
        (
            "dns = \"a\", rcode = \"REFUSED\", answer = \"192.0.2.1\"",
            "7:51 \"192.0.2.1\"",
            "no answer to look at | one of",
        ),
        ("udp = \"\"", "7:18 \"\"", "0 bytes; 1 to 1200 | \\xNN"),
        (&long, &format!("7:18 {}", &long[6..206]), "1201 bytes | \\xNN"),
        (r"udp = '\q'", r"7:18 '\q'", "no escape | single quotes"),
        ("exec = []", "7:19 []", "not an absolute path | a list"),
        ("exec = [\"ls\"]", "7:19 [\"ls\"]", "not an absolute path | a list"),
        ("exec = \"ls\"", "7:19 \"ls\"", "expected a sequence | square brackets"),
        ("jitter = \"10\"", "7:21 \"10\"", "not a percentage | \"10%\""),
        ("jitter = \"51%\"", "7:21 \"51%\"", "0% to 50% | 10%"),
        (
            "source = \"fd00::1\"",
            "7:21 \"fd00::1\"",
            "can't reach web-01 at 10.0.0.11 | same family",
        ),
        ("source = \"0.0.0.0\"", "7:21 \"0.0.0.0\"", "can't come from 0.0.0.0 | of this machine"),
        ("source = \"eth0\"", "7:21 \"eth0\"", "not an IP address | names are not resolved"),
    ] {
        refused(line, &format!("{at} | {message}"));
    }
}

#[test]
fn a_change_of_a_probe_is_told_key_by_key() {
    let told = |old: &str, new: &str| {
        let config = |line: &str| {
            parse(&format!("{HEAD}{WEB}health = {{ {line} }}\n{ONE}"), "lb.toml").unwrap()
        };
        diff(&config(old), &config(new)).join("; ")
    };
    for (old, new, expect) in [
        ("tcp = true", "icmp = true", "health tcp = true → icmp = true"),
        ("http = \"/\"", "http = \"/\", timeout = \"1s\"", "health.timeout \"500ms\" → \"1s\""),
        (
            "http = \"/\"",
            "http = \"/x\", rise = 3",
            "health.http \"/\" → \"/x\"; service web: health.rise 2 → 3",
        ),
        ("http = \"/\"", "http = \"/\", body = \"a\"", "health.body none → \"a\""),
        ("udp = \"a\", expect = \"b\"", "udp = \"a\"", "health.expect \"b\" → none"),
    ] {
        assert_eq!(told(old, new), format!("service web: {expect}"));
    }
}

#[test]
fn another_content_of_the_ca_file_is_a_change() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let source =
        format!("{HEAD}{WEB}health = {{ https = \"/\", ca = \"{}\" }}\n{ONE}", path.display());
    let read = || {
        let made = rcgen::generate_simple_self_signed(vec!["ca.example".into()]).unwrap();
        std::fs::write(&path, made.cert.pem()).unwrap();
        parse(&source, "lb.toml").unwrap()
    };
    let (old, new) = (read(), read());
    let expect = format!("service web: other certificates in {}", path.display());
    assert_eq!(diff(&old, &new), [expect]);
}

/// What version 0.1.0 stored of an HTTP probe.
#[test]
fn an_older_probe_is_read() {
    let config =
        parse(&format!("{HEAD}{WEB}health = {{ http = \"/x\" }}\n{ONE}"), "lb.toml").unwrap();
    let mut stored = serde_json::to_value(&config).unwrap();
    let health = stored.pointer_mut("/services/0/health").unwrap().as_object_mut().unwrap();
    health.remove("jitter").unwrap();
    health.remove("source").unwrap();
    let old = serde_json::json!({"path": "/x", "host": null, "status": {"start": 200, "end": 399}});
    health.insert("probe".into(), serde_json::json!({ "http": old }));
    assert_eq!(serde_json::from_value::<Config>(stored).unwrap(), config);
}
