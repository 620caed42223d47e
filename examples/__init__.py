"""Small real tasks for edgewright, written as a user's own code: nothing here imports edgewright."""
