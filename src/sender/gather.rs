//! Gather: a request's head and body sent as one.
//!
//! Beneath the connections. The library sends the head by itself and the body after it: two system calls and two packets,
//! or two TLS records, and a server that wakes up for the first finds nothing it could do. Here the head waits for
//! what follows it.
#![forbid(unsafe_code)]

use std::fmt::Debug;
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// The last link of a chain of connectors.
#[derive(Debug)]
pub struct Gather;

impl<T: Transport> Connector<T> for Gather {
    type Out = Gathering<T>;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        chained: Option<T>,
    ) -> Result<Option<Gathering<T>>, Error> {
        Ok(chained.map(|below| Gathering { below, expects: Part::Head, head: Vec::new() }))
    }
}

/// What is sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Head,
    Rest,
}

#[derive(Debug)]
pub struct Gathering<T> {
    below: T,
    expects: Part,
    /// Given to be sent, and not sent yet.
    head: Vec<u8>,
}

impl<T: Transport> Gathering<T> {
    /// Sends what waits, with the first `amount` bytes of the output behind it.
    fn flush(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let held = self.head.len();
        let output = self.below.buffers().output();
        if held + amount <= output.len() {
            output.copy_within(..amount, held);
            output[..held].copy_from_slice(&self.head);
            self.head.clear();
            return self.below.transmit_output(held + amount, timeout);
        }
        self.head.extend_from_slice(&output[..amount]);
        let all = std::mem::take(&mut self.head);
        for piece in all.chunks(output.len().max(1)) {
            self.below.buffers().output()[..piece.len()].copy_from_slice(piece);
            self.below.transmit_output(piece.len(), timeout)?;
        }
        Ok(())
    }
}

impl<T: Transport> Transport for Gathering<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.below.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        match self.expects {
            Part::Head => {
                self.expects = Part::Rest;
                self.head.extend_from_slice(&self.below.buffers().output()[..amount]);
                Ok(())
            }
            Part::Rest if self.head.is_empty() => self.below.transmit_output(amount, timeout),
            Part::Rest => self.flush(amount, timeout),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.expects = Part::Head;
        if !self.head.is_empty() {
            // A request without a body.
            self.flush(0, timeout)?;
        }
        self.below.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.below.is_open()
    }

    fn is_tls(&self) -> bool {
        self.below.is_tls()
    }
}
