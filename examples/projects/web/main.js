import './style.css'

document.querySelector('#app').innerHTML = '<h1>Built by stacker</h1>'
