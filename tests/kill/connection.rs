//! A connection to a node process: a line out, a line in.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::new(stream)))
    }

    /// Asks and waits for the answer. An error leaves open whether the request was heard.
    pub(crate) fn ask(&mut self, request: &str) -> io::Result<String> {
        self.0.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        match answer.pop() {
            Some('\n') => Ok(answer),
            // Cut off in the middle: half an answer is none.
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
