"""Methods x seeds from one pretrained policy: runs, figures, tables; published tables beside ours."""
