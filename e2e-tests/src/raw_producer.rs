//! Record batches byte by byte (Produce v3, RecordBatch v2), as no client library writes them: with header names of any
//! bytes, and with contents that no codec can read. For brokers without TLS and passwords.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Of a connection that answers one request.
const CORRELATION: i32 = 1;

/// A batch of one record.
pub enum Batch<'a> {
    Record {
        key: &'a [u8],
        body: &'a [u8],
        headers: &'a [(&'a [u8], &'a [u8])],
    },
    /// It says that it is compressed by this codec (1 gzip, 2 snappy, 3 lz4, 4 zstd), and is not.
    Damaged {
        codec: u8,
    },
}

/// Produces to a partition, named as on Kafka, whose leader is at `address`. Answers the offset.
pub async fn produce(address: &str, topic: &str, partition: i32, batch: &Batch<'_>) -> Result<i64> {
    let request = request(topic, partition, &batch.bytes()?)?;
    let mut broker = TcpStream::connect(address).await?;
    broker.write_i32(i32::try_from(request.len())?).await?;
    broker.write_all(&request).await?;
    let mut answer = vec![0; usize::try_from(broker.read_i32().await?)?];
    broker.read_exact(&mut answer).await?;
    // Correlation id, one topic, its name, one partition: its number, an error code, the offset.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    let code = i16::from_be_bytes(answer.get(at..at + 2).context("a short answer")?.try_into()?);
    ensure!(code == 0, "{topic} [{partition}]: the broker refuses the batch by its code {code}");
    Ok(i64::from_be_bytes(answer.get(at + 2..at + 10).context("a short answer")?.try_into()?))
}

fn request(topic: &str, partition: i32, batch: &[u8]) -> Result<Vec<u8>> {
    let mut request = Vec::new();
    let name =
        |text: &str| Ok::<_, anyhow::Error>([&i16::try_from(text.len())?.to_be_bytes(), text.as_bytes()].concat());
    // Produce is 0; no transaction (-1), all acknowledgements (-1) within 5 s.
    request.extend([0_i16.to_be_bytes(), 3_i16.to_be_bytes()].concat());
    request.extend(CORRELATION.to_be_bytes());
    request.extend(name("raw-producer")?);
    request.extend([(-1_i16).to_be_bytes(), (-1_i16).to_be_bytes()].concat());
    request.extend([5000_i32.to_be_bytes(), 1_i32.to_be_bytes()].concat());
    request.extend(name(topic)?);
    request.extend([1_i32, partition, i32::try_from(batch.len())?].map(i32::to_be_bytes).concat());
    request.extend(batch);
    Ok(request)
}

impl Batch<'_> {
    fn bytes(&self) -> Result<Vec<u8>> {
        let (attributes, records) = match self {
            Self::Damaged { codec } => (i16::from(*codec), b"this is not compressed".to_vec()),
            Self::Record { key, body, headers } => {
                let mut record = vec![0];
                record.extend([0, 0].into_iter().flat_map(varint));
                record.extend([sized(key), sized(body), varint(headers.len() as i64)].concat());
                record.extend(headers.iter().flat_map(|(name, value)| [sized(name), sized(value)].concat()));
                (0, sized(&record))
            }
        };
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        // What the checksum is of: attributes, last offset, two times, no producer, one record.
        let mut summed = [attributes.to_be_bytes().to_vec(), 0_i32.to_be_bytes().to_vec()].concat();
        summed.extend([now, now, -1].map(i64::to_be_bytes).concat());
        summed.extend((-1_i16).to_be_bytes());
        summed.extend([-1_i32, 1].map(i32::to_be_bytes).concat());
        summed.extend(records);
        let mut rest = [(-1_i32).to_be_bytes().to_vec(), vec![2], crc32c(&summed).to_be_bytes().to_vec()].concat();
        rest.extend(summed);
        Ok([&0_i64.to_be_bytes()[..], &i32::try_from(rest.len())?.to_be_bytes(), &rest].concat())
    }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [varint(bytes.len() as i64), bytes.to_vec()].concat()
}

/// Zigzag, seven bits a byte, the lowest first.
fn varint(number: i64) -> Vec<u8> {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest > 0x7f {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn numbers_are_written_as_kafka_reads_them() {
        assert_eq!(
            [0, -1, 1, 63, 64, 300].map(varint),
            [vec![0], vec![1], vec![2], vec![126], vec![128, 1], vec![216, 4]]
        );
    }
}
