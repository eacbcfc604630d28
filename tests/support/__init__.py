"""What the tests share: closeness of numbers, data sets of three images, the way to the real samples."""
