//! The file of headers that a webhook wants, such as `Authorization`: read for each message, so
//! that what is changed there is used at once, and kept nowhere.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// A larger file is no list of headers.
const LONGEST: u64 = 64 << 10;
/// These are the connection's own.
const OWN: [&str; 5] = ["host", "content-length", "transfer-encoding", "connection", "upgrade"];

/// Reads a file of lines `Name: value`; blank lines and those that begin with `#` say nothing.
pub(super) fn read(path: &str) -> Result<HeaderMap, String> {
    let is_large = |file: std::fs::Metadata| file.len() > LONGEST;
    if std::fs::metadata(path).is_ok_and(is_large) {
        return Err(format!("{path} has more than {LONGEST} bytes: no list of headers"));
    }
    let text = std::fs::read_to_string(path);
    parse(&text.map_err(|error| format!("can't read {path}: {error}"))?)
        .map_err(|(line, why)| format!("{path}:{line}: {why}"))
}

/// The number of the line that is wrong, and why; never what it says.
fn parse(text: &str) -> Result<HeaderMap, (usize, &'static str)> {
    let mut headers = HeaderMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or((number, "write it as `Name: value`"))?;
        let name: HeaderName =
            name.trim().parse().map_err(|_| (number, "that is no name of a header"))?;
        if OWN.contains(&name.as_str()) {
            return Err((number, "this header is the connection's own: remove it"));
        }
        let mut value = HeaderValue::from_str(value.trim())
            .map_err(|_| (number, "the value has characters that a header can't have"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_never_repeated_in_errors() {
        let headers =
            parse("# for the pager\nAuthorization: Bearer a:b\n\n X-Team : lb \n").unwrap();
        let found: Vec<_> =
            headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(found, [("authorization", "Bearer a:b"), ("x-team", "lb")]);
        for (bad, line) in [
            ("secret", 1),
            ("A: b\nse cret: x", 2),
            ("Host: x", 1),
            ("content-length: 1", 1),
            ("A: \u{1}secret", 1),
        ] {
            let (number, why) = parse(bad).unwrap_err();
            assert_eq!(number, line, "{bad}");
            assert!(!why.contains("secret"));
        }
    }
}
