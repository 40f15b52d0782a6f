//! Values and rows, the same for both databases: whole numbers, text, bytes, nothing else.

use jiff::Timestamp;

use super::FleetError;

/// A value of a column or parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number; times are milliseconds of the epoch, flags 0 or 1.
    Int(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<u64> for Value {
    /// Larger than a signed number holds is no value we store; it becomes the largest.
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(value)
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(value: &[u8; N]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl From<Timestamp> for Value {
    fn from(value: Timestamp) -> Self {
        Self::Int(value.as_millisecond())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row; columns are taken in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(pub(super) Vec<Value>);

impl Row {
    fn at(&self, column: usize) -> Result<&Value, FleetError> {
        self.0.get(column).ok_or_else(|| FleetError::Corrupt(format!("a row without column {column}")))
    }

    /// A whole number.
    pub fn int(&self, column: usize) -> Result<i64, FleetError> {
        self.maybe_int(column)?.ok_or_else(|| wrong(column, "a number"))
    }

    /// A whole number or nothing.
    pub fn maybe_int(&self, column: usize) -> Result<Option<i64>, FleetError> {
        match self.at(column)? {
            Value::Int(value) => Ok(Some(*value)),
            Value::Null => Ok(None),
            Value::Text(_) | Value::Bytes(_) => Err(wrong(column, "a number")),
        }
    }

    /// A number that is not negative.
    pub fn count(&self, column: usize) -> Result<u64, FleetError> {
        u64::try_from(self.int(column)?).map_err(|_| wrong(column, "a count"))
    }

    /// A flag.
    pub fn flag(&self, column: usize) -> Result<bool, FleetError> {
        self.int(column).map(|value| value != 0)
    }

    /// Text.
    pub fn text(&self, column: usize) -> Result<String, FleetError> {
        self.maybe_text(column)?.ok_or_else(|| wrong(column, "text"))
    }

    /// Text or nothing.
    pub fn maybe_text(&self, column: usize) -> Result<Option<String>, FleetError> {
        match self.at(column)? {
            Value::Text(value) => Ok(Some(value.clone())),
            Value::Null => Ok(None),
            Value::Int(_) | Value::Bytes(_) => Err(wrong(column, "text")),
        }
    }

    /// Words with commas between them; none where there is nothing.
    pub fn words(&self, column: usize) -> Result<Vec<String>, FleetError> {
        let text = self.maybe_text(column)?.unwrap_or_default();
        Ok(text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect())
    }

    /// Text that reads as something.
    pub fn parse<T: std::str::FromStr>(&self, column: usize) -> Result<T, FleetError> {
        self.text(column)?.parse().map_err(|_| wrong(column, std::any::type_name::<T>()))
    }

    /// Bytes.
    pub fn bytes(&self, column: usize) -> Result<Vec<u8>, FleetError> {
        self.maybe_bytes(column)?.ok_or_else(|| wrong(column, "bytes"))
    }

    /// Bytes or nothing.
    pub fn maybe_bytes(&self, column: usize) -> Result<Option<Vec<u8>>, FleetError> {
        match self.at(column)? {
            Value::Bytes(value) => Ok(Some(value.clone())),
            Value::Null => Ok(None),
            Value::Int(_) | Value::Text(_) => Err(wrong(column, "bytes")),
        }
    }

    /// A digest.
    pub fn hash(&self, column: usize) -> Result<[u8; 32], FleetError> {
        self.bytes(column)?.try_into().map_err(|_| wrong(column, "32 bytes"))
    }

    /// A time.
    pub fn time(&self, column: usize) -> Result<Timestamp, FleetError> {
        self.maybe_time(column)?.ok_or_else(|| wrong(column, "a time"))
    }

    /// A time or nothing.
    pub fn maybe_time(&self, column: usize) -> Result<Option<Timestamp>, FleetError> {
        let read = |value| Timestamp::from_millisecond(value).map_err(|_| wrong(column, "a time"));
        self.maybe_int(column)?.map(read).transpose()
    }
}

fn wrong(column: usize, wanted: &str) -> FleetError {
    FleetError::Corrupt(format!("column {column} is not {wanted}"))
}
