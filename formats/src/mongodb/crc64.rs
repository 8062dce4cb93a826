//! The checksum that the stream of `mongodump --archive` has over the documents of a collection: CRC-64/XZ.

/// A checksum over what was added.
#[derive(Debug, Clone)]
pub struct Crc64(u64);

static TABLE: [u64; 256] = {
    const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut sum, mut bit) = (at as u64, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        table[at] = sum;
        at += 1;
    }
    table
};

impl Default for Crc64 {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

impl Crc64 {
    /// Adds the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = TABLE[usize::from(self.0.to_le_bytes()[0] ^ byte)] ^ (self.0 >> 8);
        }
    }

    /// Of all that was added.
    pub fn finish(&self) -> u64 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_mongodump_takes() {
        let mut sum = Crc64::default();
        sum.add(b"1234");
        sum.add(b"56789");
        assert_eq!(sum.finish(), 0x995d_c9bb_df19_39fa);
        assert_eq!(Crc64::default().finish(), 0);
    }
}
