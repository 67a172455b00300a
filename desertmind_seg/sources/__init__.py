"""Images, videos, cameras, streams and bags: every source of frames behind one door."""
