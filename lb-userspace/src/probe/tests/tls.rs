//! HTTPS against nginx, which shows certificates of every kind.

use super::nginx::{Authority, Nginx};
use super::*;

const SITE: &str = "location / { return 200 'warm'; }";
/// A year that no machine's clock is past.
const LATE: i32 = 2099;

#[test]
fn certificates_are_checked() {
    let (ours, others) = (Authority::new("one"), Authority::new("two"));
    let directory = tempfile::tempdir().unwrap();
    let ca = ours.write(directory.path());
    let good = ours.sign(&["a.example", "127.0.0.1"], 2020, LATE);
    let expired = ours.sign(&["a.example"], 2019, 2020);
    let early = ours.sign(&["a.example"], LATE, LATE + 1);
    let stranger = others.sign(&["a.example"], 2020, LATE);
    let named = "if ($ssl_server_name != 'a.example') { return 421; } return 200 'warm';";
    let named = format!("location / {{ {named} }}");
    let nginx = Nginx::start(&[
        (443, Some(&good), SITE),
        (444, Some(&expired), SITE),
        (445, Some(&early), SITE),
        (446, Some(&stranger), SITE),
        (447, Some(&good), "ssl_reject_handshake on;"),
        (448, Some(&good), &named),
        (80, None, SITE),
    ]);
    let rows = [
        (443, "", "sni = \"a.example\", body = \"warm\"", "ok"),
        (443, "by its address", "", "ok"),
        (443, "host names it, too", "host = \"a.example:8443\"", "ok"),
        (448, "SNI is sent", "sni = \"a.example\"", "ok"),
        (448, "no SNI for an address", "status = 421", "ok"),
        (
            443,
            "name",
            "sni = \"b.example\"",
            "tls: certificate is for a.example, 127.0.0.1, not for b.example (127.0.0.1:443)",
        ),
        (
            444,
            "expired",
            "sni = \"a.example\"",
            "tls: certificate expired on 2020-01-01 (127.0.0.1:444)",
        ),
        (
            445,
            "early",
            "sni = \"a.example\"",
            "tls: certificate is not valid before 2099-01-01 (127.0.0.1:445)",
        ),
        (
            446,
            "unknown issuer",
            "sni = \"a.example\"",
            "tls: certificate has an unknown issuer: name its CA with `ca` (127.0.0.1:446)",
        ),
        (
            447,
            "alert",
            "sni = \"a.example\"",
            "tls: the server sent the alert unrecognised name (127.0.0.1:447)",
        ),
        (
            80,
            "no TLS",
            "sni = \"a.example\"",
            "tls: the server doesn't answer in TLS (127.0.0.1:80)",
        ),
    ];
    for (port, name, more, expect) in rows {
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let probe = read(&format!("https = \"/\", ca = \"{ca}\"{more}"));
        assert_eq!(nginx.ask(&format!("127.0.0.1:{port}"), &probe), expect, "{port} {name}");
    }
    for port in [443, 444, 445, 446] {
        let probe = read("https = \"/\", insecure = true, body = \"warm\"");
        assert_eq!(nginx.ask(&format!("127.0.0.1:{port}"), &probe), "ok", "{port}");
    }
    let system = nginx.ask("127.0.0.1:443", &read("https = \"/\", sni = \"a.example\""));
    assert!(system.contains("unknown issuer") || system.contains("no CA certificates"), "{system}");
}

#[tokio::test]
async fn a_handshake_can_fail_in_other_ways() {
    use FailureKind::{Refused, Reset, Timeout};
    let https = read("https = \"/\", insecure = true");
    let silent = "timeout: connected, but no end of the TLS handshake with {} within 300 ms";
    let closes = "reset: {} closed the connection during the TLS handshake";
    check("silent", https.clone(), Server::Silent, Some((Timeout, silent))).await;
    check("closes", https.clone(), Server::Closes, Some((Reset, closes))).await;
    let resets = "reset: connection reset by {}";
    check("resets", https.clone(), Server::Resets, Some((Reset, resets))).await;
    let refused = "refused: connection refused on {}";
    check("refused", https, Server::Absent, Some((Refused, refused))).await;
}

#[test]
fn probes_that_trust_the_same_share_what_they_need() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let directory = tempfile::tempdir().unwrap();
    let ca = one.write(directory.path());
    let probe = read(&format!("https = \"/\", ca = \"{ca}\""));
    let mut configs = Configs::default();
    let first = Asked::new(&probe, &mut configs);
    let second = Asked::new(&probe, &mut configs);
    assert!(first.shares_tls_with(&second));
    // The file is read with the configuration, and another content is another configuration.
    two.write(directory.path());
    let changed = read(&format!("https = \"/\", ca = \"{ca}\""));
    assert_ne!(probe, changed);
    assert!(!first.shares_tls_with(&Asked::new(&changed, &mut configs)));
}
