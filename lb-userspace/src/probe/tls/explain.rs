//! Which part of a TLS handshake failed, in words.

use std::io;
use std::net::SocketAddr;

use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, Error};

use crate::probe::connect;
use crate::probe::{Failure, FailureKind};

/// Names of a certificate that are shown.
const NAMES: usize = 4;

/// The failure that an error of the handshake with `target`, or of the stream after it, is.
pub(in crate::probe) fn failure(error: &io::Error, target: SocketAddr) -> Failure {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let detail = format!("{target} closed the connection during the TLS handshake");
            return Failure::new(FailureKind::Reset, detail);
        }
        return connect::failure(error, target);
    };
    Failure::new(FailureKind::Tls, format!("{} ({target})", describe(tls)))
}

fn describe(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(alert) => {
            format!("the server sent the alert {}", words(&format!("{alert:?}")))
        }
        Error::InvalidMessage(_) => "the server doesn't answer in TLS".into(),
        Error::PeerIncompatible(why) => {
            format!("no common version or cipher: {}", words(&format!("{why:?}")))
        }
        Error::NoApplicationProtocol => {
            "the server doesn't speak the protocol asked for (ALPN)".into()
        }
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate expired on {}", date(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}", date(*not_before))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("certificate is for {}, not for {}", names(presented), name(expected))
        }
        CertificateError::UnknownIssuer => {
            "certificate has an unknown issuer: name its CA with `ca`".into()
        }
        CertificateError::Expired => "certificate has expired".into(),
        CertificateError::NotValidYet => "certificate is not valid yet".into(),
        CertificateError::NotValidForName => "certificate is for another name".into(),
        CertificateError::BadSignature => "certificate has a bad signature".into(),
        CertificateError::BadEncoding => "certificate can't be read".into(),
        other => format!("certificate is refused: {other}"),
    }
}

fn name(name: &ServerName<'_>) -> String {
    match name {
        ServerName::IpAddress(address) => std::net::IpAddr::from(*address).to_string(),
        other => other.to_str().into_owned(),
    }
}

/// `DnsName("a.example")`, as the verifier gives it, is shown as `a.example`.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner);
        let inner = inner.trim_matches(|c| "()\"".contains(c));
        inner.chars().take(80).flat_map(char::escape_debug).collect::<String>()
    };
    let mut shown: Vec<String> = presented.iter().take(NAMES).map(plain).collect();
    match presented.len() {
        0 => return "no name".into(),
        count if count > NAMES => shown.push(format!("{} more", count - NAMES)),
        _ => {}
    }
    shown.join(", ")
}

/// `HandshakeFailure` as `handshake failure`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for character in name.chars().take(80) {
        if character.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(character.to_ascii_lowercase());
    }
    words
}

/// The day, in UTC, as `2026-01-01`.
fn date(time: UnixTime) -> String {
    // Days of the era of 400 years, counted from 1 March: the leap day comes last in each year.
    let days = time.as_secs() / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + next)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @SECONDS +%F`.
        for (seconds, expect) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_767_225_599, "2025-12-31"),
            (1_767_225_600, "2026-01-01"),
            (4_107_542_400, "2100-03-01"),
            (253_402_300_799, "9999-12-31"),
        ] {
            assert_eq!(date(UnixTime::since_unix_epoch(Duration::from_secs(seconds))), expect);
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        assert_eq!(words("HandshakeFailure"), "handshake failure");
        assert_eq!(names(&[r#"DnsName("a.example")"#.into()]), "a.example");
        let many: Vec<String> = (0..9).map(|n| format!("DnsName(\"{n}\")")).collect();
        assert_eq!(names(&many), "0, 1, 2, 3, 5 more");
        assert_eq!(names(&[]), "no name");
    }
}
