//! The file as written: keys and types only, every value with its place in the source.
//!
//! Almost everything is optional here, so that what is missing is reported together with
//! everything else that is wrong instead of ending the reading.

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use toml::Spanned;

use super::place::Finding;
use super::suggest::{closest, one_of};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct RawConfig {
    pub(crate) node: Option<Spanned<RawNode>>,
    pub(crate) alert: Option<Vec<Spanned<RawAlert>>>,
    pub(crate) service: Option<Vec<Spanned<RawService>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct RawAlert {
    pub(crate) webhook: Option<Spanned<String>>,
    pub(crate) exec: Option<Spanned<Vec<String>>>,
    pub(crate) headers_file: Option<Spanned<String>>,
    pub(crate) ca_file: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) events: Vec<Spanned<String>>,
    pub(crate) min_severity: Option<Spanned<String>>,
    pub(crate) timeout: Option<Spanned<String>>,
    pub(crate) retries: Option<Spanned<i64>>,
    pub(crate) repeat: Option<Spanned<String>>,
    pub(crate) batch: Option<Spanned<String>>,
    pub(crate) template: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct RawNode {
    pub(crate) interfaces: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) xdp: Option<Spanned<String>>,
    pub(crate) nat_ports: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) nat_addresses: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) tunnel_sources: Vec<Spanned<String>>,
    pub(crate) gue_port: Option<Spanned<i64>>,
    pub(crate) flow_inserts: Option<Spanned<i64>>,
    pub(crate) icmp_rate: Option<Spanned<i64>>,
    pub(crate) limits: Option<Spanned<RawLimits>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct RawLimits {
    pub(crate) frontends: Option<Spanned<i64>>,
    pub(crate) backends: Option<Spanned<i64>>,
    pub(crate) servers: Option<Spanned<i64>>,
    pub(crate) table_bytes: Option<Spanned<Scalar>>,
    pub(crate) flows: Option<Spanned<i64>>,
    pub(crate) nat_connections: Option<Spanned<i64>>,
    pub(crate) sources: Option<Spanned<i64>>,
    pub(crate) rates: Option<Spanned<i64>>,
    pub(crate) server_ids: Option<Spanned<i64>>,
    pub(crate) prefixes: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct RawService {
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) listen: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) mode: Option<Spanned<String>>,
    pub(crate) health: Option<Spanned<RawHealth>>,
    pub(crate) idle_timeout: Option<Spanned<String>>,
    pub(crate) udp_timeout: Option<Spanned<String>>,
    pub(crate) slow_start: Option<Spanned<String>>,
    pub(crate) slow_start_curve: Option<Spanned<String>>,
    pub(crate) failover: Option<Spanned<RawFailover>>,
    pub(crate) hash: Option<Spanned<String>>,
    pub(crate) track: Option<Spanned<String>>,
    pub(crate) udp: Option<Spanned<String>>,
    pub(crate) quic: Option<Spanned<RawQuic>>,
    pub(crate) mss: Option<Spanned<i64>>,
    pub(crate) allow: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) rate_limit: Option<Spanned<RawRateLimit>>,
    pub(crate) capacity_warning: Option<Spanned<String>>,
    pub(crate) backends: Option<Spanned<Vec<Spanned<RawBackend>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a quic table")]
pub(crate) struct RawQuic {
    pub(crate) config_id: Option<Spanned<i64>>,
    pub(crate) server_id_length: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a rate_limit table")]
pub(crate) struct RawRateLimit {
    pub(crate) per_second: Option<Spanned<i64>>,
    pub(crate) burst: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a failover table")]
pub(crate) struct RawFailover {
    pub(crate) max_removed: Option<Spanned<String>>,
    pub(crate) max_removed_in_window: Option<Spanned<String>>,
    pub(crate) window: Option<Spanned<String>>,
    pub(crate) on_down: Option<Spanned<String>>,
    pub(crate) backup_below: Option<Spanned<String>>,
    pub(crate) backup_return: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a health table")]
pub(crate) struct RawHealth {
    pub(crate) none: Option<Spanned<bool>>,
    pub(crate) tcp: Option<Spanned<bool>>,
    pub(crate) http: Option<Spanned<String>>,
    pub(crate) https: Option<Spanned<String>>,
    pub(crate) grpc: Option<Spanned<String>>,
    pub(crate) dns: Option<Spanned<String>>,
    pub(crate) udp: Option<Spanned<String>>,
    pub(crate) icmp: Option<Spanned<bool>>,
    pub(crate) exec: Option<Spanned<Vec<String>>>,
    pub(crate) method: Option<Spanned<String>>,
    pub(crate) host: Option<Spanned<String>>,
    pub(crate) status: Option<Spanned<Scalar>>,
    pub(crate) body: Option<Spanned<String>>,
    pub(crate) body_regex: Option<Spanned<String>>,
    pub(crate) tls: Option<Spanned<bool>>,
    pub(crate) sni: Option<Spanned<String>>,
    pub(crate) ca: Option<Spanned<String>>,
    pub(crate) insecure: Option<Spanned<bool>>,
    pub(crate) r#type: Option<Spanned<String>>,
    pub(crate) rcode: Option<Spanned<String>>,
    pub(crate) answer: Option<Spanned<String>>,
    pub(crate) expect: Option<Spanned<String>>,
    pub(crate) port: Option<Spanned<i64>>,
    pub(crate) source: Option<Spanned<String>>,
    pub(crate) via: Option<Spanned<String>>,
    pub(crate) interval: Option<Spanned<String>>,
    pub(crate) fast_interval: Option<Spanned<String>>,
    pub(crate) jitter: Option<Spanned<String>>,
    pub(crate) timeout: Option<Spanned<String>>,
    pub(crate) rise: Option<Spanned<i64>>,
    pub(crate) fall: Option<Spanned<i64>>,
    pub(crate) hold_down: Option<Spanned<String>>,
    pub(crate) hold_down_max: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct RawBackend {
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) address: Option<Spanned<String>>,
    pub(crate) family: Option<Spanned<String>>,
    pub(crate) port: Option<Spanned<i64>>,
    pub(crate) weight: Option<Spanned<i64>>,
    pub(crate) backup: Option<Spanned<bool>>,
    pub(crate) server_id: Option<Spanned<String>>,
}

/// More names than this make no readable line.
const MANY_KEYS: usize = 10;

/// A number, or text such as `16MiB` or `200-399`.
#[derive(Debug)]
pub(crate) enum Scalar {
    Number(i64),
    Text(String),
}

/// Reads keys and types; the first thing that is wrong with them.
pub(crate) fn read(source: &str) -> Result<RawConfig, Finding> {
    toml::from_str(source).map_err(|error| {
        let hint = hint_for(error.message());
        let message = match error.message().strip_prefix("unknown field ") {
            // The hint lists what is expected.
            Some(rest) => format!("unknown key {}", rest.split(", ").next().unwrap_or(rest)),
            None => error.message().replace("expected i64", "expected a whole number"),
        };
        Finding { span: error.span().unwrap_or(0..0), message, hint, other: None }
    })
}

fn hint_for(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let wrong = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        return match closest(wrong, known.iter().copied()) {
            // Long lists are in the manual, and of no help to a slip of the fingers.
            Some(near) if known.len() > MANY_KEYS => format!("did you mean `{near}`?"),
            Some(near) => format!("did you mean `{near}`? Known here: {}", known.join(", ")),
            None => format!("remove it; known here: {}", one_of(known)),
        };
    }
    let hints = [
        (
            "invalid type: map, expected a sequence",
            "write [[service]] or [[alert]] with two brackets, or a list in [ ]",
        ),
        ("expected a sequence", "write a list in square brackets, such as [\"eth0\"]"),
        ("expected a string", "put the value in double quotes"),
        ("expected i64", "write a whole number without quotes"),
        ("expected a boolean", "write true or false, without quotes"),
        ("expected a health table", "write a table, such as { http = \"/healthz\" }"),
        ("expected a failover table", "write a table, such as { max_removed = \"50%\" }"),
        ("expected a quic table", "write a table: { config_id = 0, server_id_length = 4 }"),
        ("expected a rate_limit table", "write a table: { per_second = 100, burst = 200 }"),
        (
            "expected a table",
            "write a table, such as { name = \"web-01\", address = \"10.0.0.11\" }",
        ),
        ("invalid float", "put text in double quotes"),
        ("duplicate key", "remove one of the two"),
        ("must be quoted", "put the value in double quotes"),
    ];
    hints
        .iter()
        .find(|(part, _)| message.contains(part))
        .map_or("correct the TOML syntax here and run `lb check` again", |(_, hint)| hint)
        .to_owned()
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Scalar;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a whole number")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}
