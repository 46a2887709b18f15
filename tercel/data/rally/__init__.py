"""The parts of a generated rally; `tercel.data.rallies` puts them together and writes data sets."""
