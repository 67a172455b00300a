"""The files of a recording: connections and messages as bytes, whatever else lies in them."""
