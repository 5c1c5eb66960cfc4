//! Rules for what probes ask: nothing that can't be sent, could break out of a request, or never
//! match an answer.

use regex_lite::RegexBuilder;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::config::model::{
    BodyMatch, Dns, Exec, Grpc, Http, Method, Payload, Probe, Rcode, RecordType, Tls, Udp,
};
use crate::config::place::{Place, Problem};

const LONGEST_TEXT: usize = 1024;
const MOST_ARGUMENTS: usize = 64;
/// RFC 1035 section 2.3.4, in text form without the final dot.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

pub(super) fn check(s: usize, probe: &Probe, problems: &mut Vec<Problem>) {
    let mut rules = Rules { s, problems };
    match probe {
        Probe::None | Probe::Tcp | Probe::Icmp => {}
        Probe::Http(http) => rules.http(probe.key(), http),
        Probe::Grpc(grpc) => rules.grpc(grpc),
        Probe::Dns(dns) => rules.dns(dns),
        Probe::Udp(udp) => rules.udp(udp),
        Probe::Exec(exec) => rules.exec(exec),
    }
}

struct Rules<'a> {
    s: usize,
    problems: &'a mut Vec<Problem>,
}

impl Rules<'_> {
    fn add(&mut self, key: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new(Place::HealthKey(self.s, key), message, hint));
    }

    fn http(&mut self, key: &'static str, http: &Http) {
        if !http.path.starts_with('/') {
            let hint = "write the path alone, such as \"/healthz\"";
            self.add(key, "the path doesn't begin with '/'", hint);
        } else if !is_plain(&http.path) {
            let hint = "use up to 1024 ASCII characters; percent-encode what is not";
            self.add(key, "the path has characters that can't be sent", hint);
        }
        if let Some(host) = &http.host
            && (host.is_empty() || !is_plain(host) || host.contains(['/', '@']))
        {
            let hint = "write a name such as \"example.org\"";
            self.add("host", "this can't be a Host header", hint);
        }
        if let Some(body) = &http.body {
            self.body(http.method, body);
        }
        if let Some(tls) = &http.tls {
            self.tls(tls);
        }
    }

    fn body(&mut self, method: Method, body: &BodyMatch) {
        let (key, text) = match body {
            BodyMatch::Contains(text) => ("body", text),
            BodyMatch::Regex(text) => ("body_regex", text),
        };
        if method == Method::Head {
            self.add(key, "answers to HEAD have no body", "use another method, or remove this key");
        }
        if text.is_empty() || text.len() > LONGEST_TEXT {
            let message = format!("`{key}` must have 1 to {LONGEST_TEXT} bytes");
            self.add(key, message, "write a part of the body that only a healthy server sends");
        } else if let BodyMatch::Regex(text) = body
            && let Err(error) = RegexBuilder::new(text).build()
        {
            let message = format!("this is no regular expression: {error}");
            self.add(
                key,
                message,
                "correct it, or use `body` for text that is to be found as it is",
            );
        }
    }

    fn tls(&mut self, tls: &Tls) {
        if let Some(name) = &tls.sni
            && ServerName::try_from(name.as_str()).is_err()
        {
            let hint = "write the name that the certificate is for, such as \"example.org\"";
            self.add("sni", format!("'{}' can't be a server name", name.escape_debug()), hint);
        }
        let Some(ca) = &tls.ca else { return };
        if tls.insecure {
            let hint = "remove one of `ca` and `insecure`";
            self.add("ca", "with `insecure` no certificate is checked against it", hint);
        }
        if let Err(error) = ca.authorities() {
            self.add("ca", error.message, error.hint);
        }
    }

    fn grpc(&mut self, grpc: &Grpc) {
        if grpc.service.len() > LONGEST_TEXT || grpc.service.contains(char::is_control) {
            let hint =
                "write a service's full name, such as \"shop.v1.Cart\", or \"\" for the server";
            self.add("grpc", "this can't be the name of a service", hint);
        }
        if let Some(tls) = &grpc.tls {
            self.tls(tls);
        }
    }

    fn dns(&mut self, dns: &Dns) {
        if !is_dns_name(&dns.name) {
            let hint = "write a name such as \"example.org\", or \".\" for the root";
            self.add("dns", "this is not a DNS name", hint);
        }
        let Some(answer) = &dns.answer else { return };
        if dns.rcode != Rcode::NoError {
            let message = format!("with rcode {} there is no answer to look at", dns.rcode);
            self.add("answer", message, "remove one of `answer` and `rcode`");
        }
        let (fits, what) = match dns.record {
            RecordType::A => (answer.parse::<std::net::Ipv4Addr>().is_ok(), "an IPv4 address"),
            RecordType::Aaaa => (answer.parse::<std::net::Ipv6Addr>().is_ok(), "an IPv6 address"),
            RecordType::Txt => (answer.len() <= LONGEST_TEXT, "text of up to 1024 bytes"),
            RecordType::Cname
            | RecordType::Mx
            | RecordType::Ns
            | RecordType::Ptr
            | RecordType::Soa
            | RecordType::Srv => (is_dns_name(answer), "a name"),
        };
        if !fits {
            let message = format!("the answer to a question of type {} is {what}", dns.record);
            self.add("answer", message, "write what one of the records must hold");
        }
    }

    fn udp(&mut self, udp: &Udp) {
        let expect = udp.expect.as_ref().map(|expect| ("expect", expect));
        for (key, payload) in [("udp", &udp.payload)].into_iter().chain(expect) {
            let bytes = payload.bytes().len();
            if !(1..=Payload::LONGEST).contains(&bytes) {
                let message =
                    format!("`{key}` has {bytes} bytes; 1 to {} will do", Payload::LONGEST);
                self.add(key, message, "write text, with \\xNN for bytes that are none");
            }
        }
    }

    fn exec(&mut self, exec: &Exec) {
        let hint = "write a list: exec = [\"/usr/local/bin/check\", \"--argument\"]";
        if !exec.program.starts_with('/') {
            self.add("exec", "the program is not an absolute path", hint);
        }
        let words = || std::iter::once(&exec.program).chain(&exec.arguments);
        if words().any(|word| word.len() > LONGEST_TEXT || word.contains('\0')) {
            self.add("exec", "a word has more than 1024 bytes, or a NUL", hint);
        }
        if exec.arguments.len() > MOST_ARGUMENTS {
            let message = format!("there are more than {MOST_ARGUMENTS} arguments");
            self.add("exec", message, "put them into a script, and name that");
        }
    }
}

fn is_plain(text: &str) -> bool {
    text.len() <= LONGEST_TEXT && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// With or without the final dot; labels may have any characters that need no escape.
fn is_dns_name(name: &str) -> bool {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    name == "." || (bare.len() <= LONGEST_NAME && bare.split('.').all(label))
}
