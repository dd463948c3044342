//! Devices at the end of a serial line.

use shiftformer_convert::backend::{Backend, BackendError, Sample, Trace};
use shiftformer_convert::model_file::ModelFile;
pub use shiftformer_wire::{Answer, ModelInfo, Status, WireError};
use shiftformer_wire::{Client, Link};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

/// Bits per second of a port whose name says none.
const BAUD: u32 = 115_200;
/// How long a device may take to answer: an inference on a slow core takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long until a request is sent again, at first.
const REPEAT: Duration = Duration::from_millis(500);

/// A line to a device.
pub enum Port {
    /// A serial port of this machine.
    Serial(serial2::SerialPort),
    /// A server: `tcp:HOST:PORT`.
    Tcp(TcpStream),
    /// A socket: `unix:PATH`.
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl Port {
    /// Opens `name`: `tcp:HOST:PORT`, `unix:PATH`, or a serial port of this machine, with `@BAUD` behind it where it is not 115200.
    ///
    /// # Errors
    /// Those of the system; what it says of a wrong name.
    pub fn open(name: &str) -> io::Result<Self> {
        if let Some(address) = name.strip_prefix("tcp:") {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            return Ok(Self::Tcp(stream));
        }
        #[cfg(unix)]
        if let Some(path) = name.strip_prefix("unix:") {
            return std::os::unix::net::UnixStream::connect(path).map(Self::Unix);
        }
        let (path, baud) = match name.rsplit_once('@') {
            Some((path, baud)) => (path, baud.parse().map_err(|_| io::Error::other(format!("`{baud}` is no speed")))?),
            None => (name, BAUD),
        };
        serial2::SerialPort::open(path, baud).map(Self::Serial)
    }

    /// Serial ports of this machine.
    ///
    /// # Errors
    /// Those of the system.
    pub fn all() -> io::Result<Vec<PathBuf>> {
        let mut ports = serial2::SerialPort::available_ports()?;
        ports.sort();
        Ok(ports)
    }
}

impl Link for Port {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Serial(port) => port.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
            #[cfg(unix)]
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn receive(&mut self, bytes: &mut [u8], wait: Duration) -> io::Result<usize> {
        // No time at all would be for ever.
        let wait = wait.max(Duration::from_millis(1));
        let came = match self {
            Self::Serial(port) => {
                port.set_read_timeout(wait)?;
                port.read(bytes)
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(wait))?;
                stream.read(bytes)
            }
            #[cfg(unix)]
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(wait))?;
                stream.read(bytes)
            }
        };
        match came {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end has closed it")),
            Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Ok(0),
            came => came,
        }
    }
}

/// A client of the device at `port`.
///
/// # Errors
/// Those of [`Port::open`].
pub fn connect(port: &str) -> Result<Client<Port>, WireError> {
    let opened =
        Port::open(port).map_err(|error| io::Error::new(error.kind(), format!("cannot open {port}: {error}")))?;
    Ok(Client::new(opened, PATIENCE, REPEAT))
}

/// A model on a device.
pub struct Serial {
    name: String,
    client: Client<Port>,
    model: Vec<u8>,
    status: Status,
}

impl Serial {
    /// Opens the line and uploads the model where the device runs another one.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    pub fn open(name: &str, port: &str, model: &ModelFile) -> Result<Self, BackendError> {
        let unavailable =
            |error: WireError| BackendError::Unavailable { backend: name.to_owned(), why: error.to_string() };
        let mut client = connect(port).map_err(unavailable)?;
        let status = client.ensure(model.bytes(), &mut |_| {}).map_err(unavailable)?;
        Ok(Self { name: name.to_owned(), client, model: model.bytes().to_vec(), status })
    }

    fn fault(&self, error: &WireError) -> BackendError {
        BackendError::Run { backend: self.name.clone(), why: error.to_string() }
    }
}

impl Backend for Serial {
    fn name(&self) -> &str {
        &self.name
    }

    fn device(&self) -> Option<String> {
        Some(format!("{}, {}", self.status.board, self.status.kernels))
    }

    fn run(&mut self, samples: &[Sample]) -> Result<Vec<Trace>, BackendError> {
        let run = |sample: &Sample| match self.client.infer(&self.model, sample) {
            Ok(Answer { outputs, ops, .. }) => Ok(Trace { digests: ops.iter().map(|op| op.digest).collect(), outputs }),
            Err(error) => Err(BackendError::Run { backend: self.name.clone(), why: error.to_string() }),
        };
        samples.iter().map(run).collect()
    }

    fn op_output(&mut self, sample: &Sample, op: usize) -> Result<Vec<u8>, BackendError> {
        let op =
            u16::try_from(op).map_err(|_| self.fault(&WireError::Refused(format!("there is no operator {op}"))))?;
        self.client.op_output(&self.model, sample, op).map_err(|error| self.fault(&error))
    }
}
