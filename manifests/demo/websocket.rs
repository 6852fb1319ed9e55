//! The web server's side of a WebSocket (RFC 6455): each message comes back as it was sent.
//!
//! As much of the protocol as a proxy in front can break: the handshake, whole text and binary messages, ping, close. A
//! message in several frames, or a long one, ends the connection with the status that says so.

use std::io;

use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// A message's longest payload.
const LIMIT: usize = 64 * 1024;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const LAST: u8 = 0x80;

const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const TOO_LONG: u16 = 1009;

/// Answers the handshake, and messages until one side closes. `buffer`: what was read after the request's head.
pub async fn talk(
    mut stream: TcpStream,
    mut buffer: Vec<u8>,
    key: &str,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let accept = accept(key);
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    loop {
        match frame(&mut buffer) {
            Err(status) => return close(&mut stream, status).await,
            Ok(Some((CLOSE, _))) => return close(&mut stream, 1000).await,
            Ok(Some((PING, payload))) => send(&mut stream, PONG, &payload).await?,
            Ok(Some((opcode @ (TEXT | BINARY), payload))) => send(&mut stream, opcode, &payload).await?,
            Ok(Some(_)) => {}
            Ok(None) => {
                let read = tokio::select! {
                    read = stream.read_buf(&mut buffer) => Some(read?),
                    _ = stopping.wait_for(|stop| *stop) => None,
                };
                match read {
                    Some(0) => return Ok(()),
                    Some(_) => {}
                    None => return close(&mut stream, GOING_AWAY).await,
                }
            }
        }
    }
}

async fn close(stream: &mut TcpStream, status: u16) -> io::Result<()> {
    send(stream, CLOSE, &status.to_be_bytes()).await?;
    stream.shutdown().await
}

async fn send(stream: &mut TcpStream, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![LAST | opcode];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => frame.push(length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    stream.write_all(&frame).await
}

/// Takes one whole frame of a client out of the buffer, when it is there: opcode and payload. `Err`: a status to close with.
fn frame(buffer: &mut Vec<u8>) -> Result<Option<(u8, Vec<u8>)>, u16> {
    let [first, second, ..] = buffer[..] else { return Ok(None) };
    let opcode = first & 0x0f;
    // Clients must mask, and a frame that is not the last one is a part of a message.
    if first & LAST == 0 || second & 0x80 == 0 {
        return Err(PROTOCOL_ERROR);
    }
    let (width, length) = match second & 0x7f {
        126 => (2, buffer.get(2..4).map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))),
        127 => return Err(TOO_LONG),
        length => (0, Some(usize::from(length))),
    };
    let Some(length) = length else { return Ok(None) };
    if length > LIMIT {
        return Err(TOO_LONG);
    }
    let start = 2 + width + 4;
    let (Some(mask), Some(payload)) = (buffer.get(2 + width..start), buffer.get(start..start + length)) else {
        return Ok(None);
    };
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    buffer.drain(..start + length);
    Ok(Some((opcode, payload)))
}

/// The proof that the other side speaks WebSocket: the key with the protocol's own GUID, hashed.
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(sha1(text.as_bytes()))
}

/// SHA-1 (FIPS 180-4): here it guards nothing, it only answers the handshake.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        }
        for at in 16..80 {
            words[at] = (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (at, word) in words.iter().enumerate() {
            let (mix, constant) = match at {
                0..20 => (b & c | !b & d, 0x5a82_7999_u32),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let next = a.rotate_left(5).wrapping_add(mix).wrapping_add(e).wrapping_add(constant).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, word) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(word);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}
