"""What people look at: tables (`summary`), curves and bars (`figures`), retrieved examples (`sheets`)."""
