"""Exchange with other software: exported networks (`export`)."""
