//! Just enough of the Postgres protocol for a proxy to know what goes by.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The largest first message of a client that Postgres takes (`MAX_STARTUP_PACKET_LENGTH`).
const MAX_FIRST: usize = 10_000;

/// The largest of all others.
const MAX: usize = 1 << 30;

/// One message: its type (0 for the first of a client, which has none) and all its bytes.
///
/// # Errors
/// The connection ended, or it is none of Postgres: a scrape of metrics that got a port which was another's, whose first bytes would be a length of a gigabyte.
pub async fn message(from: &mut (impl AsyncRead + Unpin), first: bool) -> io::Result<(u8, Vec<u8>)> {
    let mut bytes = vec![0; if first { 4 } else { 5 }];
    from.read_exact(&mut bytes).await?;
    let kind = if first { 0 } else { bytes[0] };
    let head = bytes.len();
    let length = u32::from_be_bytes([bytes[head - 4], bytes[head - 3], bytes[head - 2], bytes[head - 1]]) as usize;
    if !(4..=if first { MAX_FIRST } else { MAX }).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    bytes.resize(head + length - 4, 0);
    from.read_exact(&mut bytes[head..]).await?;
    Ok((kind, bytes))
}

#[cfg(test)]
mod tests {
    use super::message;

    #[tokio::test]
    async fn what_is_no_postgres_is_refused_before_it_takes_memory() {
        let begins =
            [(&b"GET /metrics HTTP/1.1"[..], true), (&b"GET /metrics HTTP/1.1"[..], false), (&[0; 9][..], false)];
        for (mut bytes, first) in begins {
            assert_eq!(message(&mut bytes, first).await.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
        }
        let (mut first, mut query) = (&[0, 0, 0, 8, 4, 210, 22, 47][..], &b"S\0\0\0\x04"[..]);
        assert_eq!(message(&mut first, true).await.unwrap(), (0, vec![0, 0, 0, 8, 4, 210, 22, 47]));
        assert_eq!(message(&mut query, false).await.unwrap(), (b'S', b"S\0\0\0\x04".to_vec()));
    }
}
