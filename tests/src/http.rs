//! HTTP/1.1 as far as the lab needs it, with failures told apart.

use std::{
    fmt, io,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    Refused,
    Reset,
    Timeout,
    /// Ended before the answer was whole.
    Closed,
    Status(u16),
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::Closed => f.write_str("closed"),
            Self::Status(code) => write!(f, "status {code}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::ConnectionReset | Kind::BrokenPipe | Kind::ConnectionAborted => Self::Reset,
            Kind::TimedOut | Kind::WouldBlock => Self::Timeout,
            Kind::UnexpectedEof => Self::Closed,
            _ => Self::Other(error.to_string()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Response {
    /// The body of a 200 as text; any other status is a failure.
    pub fn text(self) -> Result<String, Failure> {
        match self.status {
            200 => Ok(String::from_utf8_lossy(&self.body).trim().to_owned()),
            other => Err(Failure::Status(other)),
        }
    }
}

/// One TCP connection to an HTTP server, from the calling thread's namespace.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: SocketAddr,
    timeout: Duration,
}

impl Connection {
    pub fn open(server: SocketAddr, timeout: Duration) -> Result<Self, Failure> {
        Self::over(TcpStream::connect_timeout(&server, timeout)?, server, timeout)
    }

    /// As [`Self::open`], from this address and port.
    pub fn open_from(
        local: SocketAddr,
        server: SocketAddr,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.bind(&local.into())?;
        socket.connect_timeout(&server.into(), timeout)?;
        Self::over(socket.into(), server, timeout)
    }

    fn over(stream: TcpStream, host: SocketAddr, timeout: Duration) -> Result<Self, Failure> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, host, timeout })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// A request on a connection that stays open.
    pub fn get(&mut self, path: &str) -> Result<Response, Failure> {
        self.request(path, "keep-alive")
    }

    /// The connection's last request: the server closes it.
    pub fn get_and_close(mut self, path: &str) -> Result<Response, Failure> {
        let response = self.request(path, "close")?;
        // Wait for the server's end, so that TIME_WAIT is on its side and not on the client's few ports.
        let _ = self.stream.read(&mut [0; 1]);
        Ok(response)
    }

    fn request(&mut self, path: &str, connection: &str) -> Result<Response, Failure> {
        let deadline = Instant::now() + self.timeout;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n",
            self.host
        );
        self.stream.set_write_timeout(Some(self.timeout))?;
        self.stream.write_all(request.as_bytes())?;
        let mut received = Vec::with_capacity(1024);
        loop {
            if let Some((status, start, length)) = parse_head(&received)?
                && received.len() >= start + length
            {
                received.truncate(start + length);
                return Ok(Response { status, body: received.split_off(start) });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Timeout);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Failure::Closed),
                Ok(length) => received.extend_from_slice(&chunk[..length]),
                // A read with a timeout is not restarted after the process was stopped for a moment.
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why.into()),
            }
        }
    }
}

/// Status, start of the body and its length, once the head is whole.
fn parse_head(received: &[u8]) -> Result<Option<(u16, usize, usize)>, Failure> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let malformed = || Failure::Other("not an HTTP answer".into());
    let head = std::str::from_utf8(&received[..end]).map_err(|_| malformed())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some((status, end + 4, length))),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_parsed_when_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 7\r\n\r\nweb-01\n";
        assert_eq!(parse_head(whole), Ok(Some((200, whole.len() - 7, 7))));
        assert_eq!(parse_head(&whole[..whole.len() - 8]), Ok(None));
        assert!(parse_head(b"SSH-2.0\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
    }
}
