//! Just enough of the Postgres protocol for a proxy to know what goes by.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// One message: its type (0 for the first of a client, which has none) and all its bytes.
///
/// # Errors
/// The connection ended.
pub async fn message(from: &mut (impl AsyncRead + Unpin), first: bool) -> io::Result<(u8, Vec<u8>)> {
    let mut bytes = vec![0; if first { 4 } else { 5 }];
    from.read_exact(&mut bytes).await?;
    let kind = if first { 0 } else { bytes[0] };
    let head = bytes.len();
    let length = u32::from_be_bytes([bytes[head - 4], bytes[head - 3], bytes[head - 2], bytes[head - 1]]) as usize;
    bytes.resize(head + length.saturating_sub(4), 0);
    from.read_exact(&mut bytes[head..]).await?;
    Ok((kind, bytes))
}
