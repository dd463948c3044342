//! Archives of numpy arrays (`.npz`): a zip with one `.npy` file per array.
//!
//! `npyz` and `zip` know the two formats. Together by hand, since the archive support of `npyz` brings compressions that
//! numpy does not write and that need a C compiler.

use npyz::npz::{array_name_from_file_name, file_name_from_array_name};
use npyz::{AutoSerialize, NpyFile, Order, WriteOptions, WriterBuilder};
use std::io::{Read, Result, Seek, Write};
use zip::read::ZipFile;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

/// An archive to read.
pub struct NpzReader<R>(ZipArchive<R>);

impl<R: Read + Seek> NpzReader<R> {
    /// Reads the list of arrays.
    ///
    /// # Errors
    /// When the source cannot be read or is no zip archive.
    pub fn new(source: R) -> Result<Self> {
        Ok(Self(ZipArchive::new(source)?))
    }

    /// Names of the arrays, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.file_names().filter_map(array_name_from_file_name)
    }

    /// The array `name`, its header read; `None` where there is none.
    ///
    /// # Errors
    /// When the source cannot be read or the entry is no `.npy` file.
    pub fn array(&mut self, name: &str) -> Result<Option<NpyFile<ZipFile<'_, R>>>> {
        match self.0.by_name(&file_name_from_array_name(name)) {
            Ok(entry) => NpyFile::new(entry).map(Some),
            Err(ZipError::FileNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// An archive to write.
pub struct NpzWriter<W: Write + Seek>(ZipWriter<W>);

impl<W: Write + Seek> NpzWriter<W> {
    /// Starts an archive without arrays.
    pub fn new(sink: W) -> Self {
        Self(ZipWriter::new(sink))
    }

    /// Adds an array, the last dimension fastest.
    ///
    /// # Errors
    /// When the sink fails or `values` are not as many as `shape` has.
    pub fn add<T: AutoSerialize>(
        &mut self,
        name: &str,
        shape: &[u64],
        values: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        self.add_in_order(name, shape, Order::C, values)
    }

    /// [`add`](Self::add), `values` being in `order`.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_in_order<T: AutoSerialize>(
        &mut self,
        name: &str,
        shape: &[u64],
        order: Order,
        values: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        self.0.start_file(file_name_from_array_name(name), SimpleFileOptions::default())?;
        let options = WriteOptions::new().default_dtype().order(order).shape(shape);
        let mut array = options.writer(&mut self.0).begin_nd()?;
        array.extend(values)?;
        array.finish()
    }

    /// Writes the list of arrays; returns the sink.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn finish(self) -> Result<W> {
        Ok(self.0.finish()?)
    }
}
